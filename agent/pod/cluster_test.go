package pod_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/skep-io/skep/agent/runtime/runtimetest"
)

// startControlPlane runs skepd as a process: the agent's code never links the
// control plane's.
func startControlPlane(t testing.TB) kubernetes.Interface {
	t.Helper()
	client, _ := startControlPlaneProcess(t)
	return client
}

// startControlPlaneProcess also returns skepd's number.
func startControlPlaneProcess(t testing.TB) (client kubernetes.Interface, pid int) {
	t.Helper()
	dir := t.TempDir()
	binary := filepath.Join(dir, "skepd")
	if out, err := exec.Command("go", "build", "-o", binary, "github.com/skep-io/skep/cmd/skepd").CombinedOutput(); err != nil {
		t.Fatalf("build skepd: %v\n%s", err, out)
	}
	var log bytes.Buffer
	cmd := exec.Command(binary, "--data-dir", filepath.Join(dir, "data"), "--listen", freeAddress(t), "--dns-etcd-listen", freeAddress(t), "--node-monitor-grace", "1h")
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	began, ended := make(chan error), make(chan error, 1)
	go func() {
		// The signal comes when the thread that started it ends, and threads
		// that visited a pod's network namespace do: this one waits here.
		goruntime.LockOSThread()
		err := cmd.Start()
		if began <- err; err == nil {
			ended <- cmd.Wait()
		}
	}()
	if err := <-began; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		if t.Failed() {
			t.Logf("skepd:\n%s", lastLines(log.String(), 30))
		}
	})
	runtimetest.Eventually(t, "the API server to answer", func() bool {
		config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(dir, "data", "pki", "admin.kubeconfig"))
		if err != nil {
			if config, err = clientcmd.BuildConfigFromFlags("", filepath.Join(dir, "data", "admin.kubeconfig")); err != nil {
				return false
			}
		}
		config.QPS = -1
		client = kubernetes.NewForConfigOrDie(config)
		_, err = client.CoreV1().Namespaces().Get(context.Background(), "default", metav1.GetOptions{})
		return err == nil
	})
	node, err := client.CoreV1().Nodes().Create(context.Background(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: testNode}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// A node that never said it is ready is one that the control plane takes
	// pods away from.
	node.ResourceVersion = ""
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now()}}
	if _, err := client.CoreV1().Nodes().UpdateStatus(context.Background(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	return client, cmd.Process.Pid
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// bound is a pod without what only the API server may set.
func bound(name string, change func(*corev1.PodSpec)) *corev1.Pod {
	p := newPod(name, change)
	p.UID, p.Status = "", corev1.PodStatus{}
	return p
}

func TestAgainstControlPlane(t *testing.T) {
	c := newCluster(t, startControlPlane(t))
	ctx := context.Background()

	t.Run("graceful deletion", func(t *testing.T) {
		c.create(bound("graceful", func(s *corev1.PodSpec) {
			grace := int64(30)
			s.TerminationGracePeriodSeconds = &grace
			// Ready only once the trap is set: a first process ignores the signal until then.
			s.Containers[0] = container("main", "trap 'exit 0' TERM; > /trapped; while true; do sleep 0.02; done")
			s.Containers[0].ReadinessProbe = &corev1.Probe{
				ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/bin/sh", "-c", "test -e /trapped"}}},
			}
		}))
		first := c.await("graceful", "ready", isReady)
		if first.Status.QOSClass != corev1.PodQOSBestEffort || first.Status.StartTime == nil {
			t.Errorf("status %+v", first.Status)
		}
		began := time.Now()
		if err := c.client.CoreV1().Pods("default").Delete(ctx, "graceful", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.awaitGone("graceful")
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("deletion took %v although the container ends at once", took)
		}
		// The same name again: another pod, untouched by the end of the first.
		c.create(bound("graceful", nil))
		second := c.await("graceful", "ready", isReady)
		if second.UID == first.UID {
			t.Error("the second pod has the first one's UID")
		}
		runtimetest.Eventually(t, "the first pod's removal", func() bool { return !contains(c.node.PodUIDs(), string(first.UID)) })
	})

	t.Run("forced deletion", func(t *testing.T) {
		c.create(bound("forced", nil))
		p := c.await("forced", "ready", isReady)
		if err := c.client.CoreV1().Pods("default").Delete(ctx, "forced", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
			t.Fatal(err)
		}
		runtimetest.Eventually(t, "removal from the node", func() bool { return !contains(c.node.PodUIDs(), string(p.UID)) })
	})

	t.Run("crash and completion", func(t *testing.T) {
		c.create(bound("done", func(s *corev1.PodSpec) {
			s.RestartPolicy, s.Containers[0] = corev1.RestartPolicyNever, container("main", "exit 0")
		}))
		c.await("done", "success", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
		c.create(bound("crash", func(s *corev1.PodSpec) { s.Containers[0] = container("main", "exit 1") }))
		c.await("crash", "crash loop", func(p *corev1.Pod) bool {
			cs := p.Status.ContainerStatuses
			return len(cs) == 1 && cs[0].State.Waiting != nil && cs[0].State.Waiting.Reason == "CrashLoopBackOff" && cs[0].RestartCount == 1
		})
		for _, name := range []string{"done", "crash"} {
			if err := c.client.CoreV1().Pods("default").Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			c.awaitGone(name)
		}
	})

	t.Run("status that others write over", func(t *testing.T) { statusOverruled(t, c) })

	t.Run("pull with a secret", func(t *testing.T) { pullWithSecret(t, c) })
}

// statusOverruled writes what the node controller writes while it gets nothing from a host, and what a given-up write that
// arrives late writes: the agent writes the pod's status again.
func statusOverruled(t *testing.T, c *cluster) {
	c.create(bound("overruled", nil))
	p := c.await("overruled", "ready", isReady)
	for _, patch := range []string{
		`{"status":{"conditions":[{"type":"Ready","status":"False","reason":"NodeNotReady"}]}}`,
		`{"status":{"containerStatuses":[{"name":"main","ready":false,"restartCount":7}]}}`,
		`{"status":{"phase":"Pending","conditions":[{"type":"example.org/other","status":"True"}]}}`,
	} {
		changed, err := c.client.CoreV1().Pods("default").Patch(t.Context(), "overruled", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
		if err != nil {
			t.Fatal(err)
		}
		p = c.await("overruled", "its own status again", func(p *corev1.Pod) bool {
			return p.ResourceVersion != changed.ResourceVersion && isReady(p) && p.Status.Phase == corev1.PodRunning &&
				p.Status.ContainerStatuses[0].Ready && p.Status.ContainerStatuses[0].RestartCount == 0
		})
	}
	if !slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == "example.org/other" }) {
		t.Errorf("another's condition is gone: %+v", p.Status.Conditions)
	}
}

func (c *cluster) awaitGone(name string) {
	c.t.Helper()
	runtimetest.Eventually(c.t, "the end of pod "+name, func() bool {
		_, err := c.client.CoreV1().Pods("default").Get(context.Background(), name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}

// pullWithSecret runs an image that only a registry on loopback has, behind a
// password.
func pullWithSecret(t *testing.T, c *cluster) {
	ctx := context.Background()
	open := registry.New()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); r.Method != http.MethodGet && r.Method != http.MethodHead || ok && user == "u" && password == "p" {
			open.ServeHTTP(w, r)
			return
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	ref, err := name.ParseReference(host+"/team/box:1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	pushTo := httptest.NewServer(open)
	defer pushTo.Close()
	push, err := name.ParseReference(strings.TrimPrefix(pushTo.URL, "http://")+"/team/box:1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(push, runtimetest.Image(t, nil)); err != nil {
		t.Fatal(err)
	}
	c.create(bound("refused", func(s *corev1.PodSpec) { s.Containers[0].Image = ref.String() }))
	p := c.await("refused", "a refusal", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Waiting != nil && p.Status.ContainerStatuses[0].State.Waiting.Reason == "ErrImagePull"
	})
	if got := p.Status.ContainerStatuses[0].State.Waiting.Message; !strings.Contains(got, "401 Unauthorized") && !strings.Contains(got, "authorization failed") {
		t.Errorf("message %q does not say that the registry refused", got)
	}
	auth := base64.StdEncoding.EncodeToString([]byte("u:p"))
	if _, err := c.client.CoreV1().Secrets("default").Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "registry"}, Type: corev1.SecretTypeDockerConfigJson,
		Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(fmt.Sprintf(`{"auths":{"http://%s":{"auth":"%s"}}}`, host, auth))},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.create(bound("pulls", func(s *corev1.PodSpec) {
		s.Containers[0].Image = ref.String()
		s.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "registry"}}
	}))
	p = c.await("pulls", "ready", isReady)
	if id := p.Status.ContainerStatuses[0].ImageID; !strings.HasPrefix(id, host+"/team/box@sha256:") {
		t.Errorf("image ID %q", id)
	}
}

// BenchmarkPodCreate is a pod from its creation at the API server to Running
// in its watch, image present.
func BenchmarkPodCreate(b *testing.B) {
	c := newCluster(b, startControlPlane(b))
	c.create(bound("warm", nil))
	c.await("warm", "ready", isReady)
	var took []time.Duration
	round := 0
	for b.Loop() {
		round++
		name := fmt.Sprintf("pod%d", round)
		began := time.Now()
		c.create(bound(name, nil))
		c.await(name, "ready", isReady)
		took = append(took, time.Since(began))
		b.StopTimer()
		if err := c.client.CoreV1().Pods("default").Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			b.Fatal(err)
		}
		c.awaitGone(name)
		b.StartTimer()
	}
	b.StopTimer()
	sort.Slice(took, func(i, j int) bool { return took[i] < took[j] })
	b.ReportMetric(float64(took[len(took)/2])/1e6, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100])/1e6, "p99-ms")
}
