package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

var skepd string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "skepd-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	skepd = filepath.Join(dir, "skepd")
	out, err := exec.Command("go", "build", "-o", skepd, ".").CombinedOutput()
	code := 1
	if err != nil {
		fmt.Fprintf(os.Stderr, "build skepd: %v\n%s", err, out)
	} else {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// process is a running skepd.
type process struct {
	cmd *exec.Cmd
}

// run starts skepd and returns when it reports that it serves.
func run(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(skepd, args...)}
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p.cmd.Stderr = log
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.end(t, syscall.SIGKILL) })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "skepd serves https://") {
		text, _ := os.ReadFile(log.Name())
		t.Fatalf("skepd says %q and ends (%v); its log:\n%s", line, err, text)
	}
	return p
}

// end sends a signal and returns how the process ended.
func (p *process) end(t *testing.T, signal syscall.Signal) error {
	t.Helper()
	if p.cmd.ProcessState != nil {
		return nil
	}
	if err := p.cmd.Process.Signal(signal); err != nil {
		t.Error(err)
	}
	return p.cmd.Wait()
}

// signal sends a signal that does not end the process.
func (p *process) signal(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		t.Error(err)
	}
}

func client(t *testing.T, dataDir string) *kubernetes.Clientset {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(dataDir, "admin.kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1 // no limit
	return kubernetes.NewForConfigOrDie(config)
}

// A skepd that is killed in the middle of its work continues at once after its start, and creates exactly the missing pods.
func TestKilledInItsWork(t *testing.T) {
	const replicas = 300
	dir := t.TempDir()
	args := []string{"--data-dir", dir, "--listen", freePort(t), "--dns-etcd-listen", freePort(t)}
	p := run(t, args...)
	c := client(t, dir)
	n := int32(replicas)
	_, err := c.CoreV1().ReplicationControllers("default").Create(t.Context(), &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: corev1.ReplicationControllerSpec{Replicas: &n, Selector: map[string]string{"app": "web"}, Template: &corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.CoreV1().Pods("default").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if _, ok := <-w.ResultChan(); !ok {
			t.Fatal("the watch ended")
		}
	}
	_ = p.end(t, syscall.SIGKILL) // "killed" is what it is to say
	w.Stop()

	started := time.Now()
	p = run(t, args...)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	w, err = c.CoreV1().ReplicationControllers("default").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for {
		e, ok := <-w.ResultChan()
		if !ok {
			t.Fatalf("the controller is not done in time: %v", ctx.Err())
		}
		if rc, is := e.Object.(*corev1.ReplicationController); is && rc.Status.Replicas == replicas {
			break
		}
	}
	t.Logf("done %v after the restart", time.Since(started))
	pods, err := c.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
	if err != nil || len(pods.Items) != replicas {
		t.Errorf("there are %d pods, want %d (%v)", len(pods.Items), replicas, err)
	}
	if err := p.end(t, syscall.SIGTERM); err != nil {
		t.Errorf("skepd ends with %v at SIGTERM", err)
	}
}

func TestErrors(t *testing.T) {
	dir := t.TempDir()
	taken := freePort(t)
	run(t, "--data-dir", dir, "--listen", taken, "--dns-etcd-listen", freePort(t))
	own := t.TempDir()
	_ = run(t, "--data-dir", own, "--listen", freePort(t), "--dns-etcd-listen", freePort(t)).end(t, syscall.SIGTERM)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		args []string
		want []string
	}{
		{"port taken", []string{"--data-dir", t.TempDir(), "--listen", taken}, []string{"--listen " + taken, "the port is in use", "ss -ltnp"}},
		{"data directory in use", []string{"--data-dir", dir, "--listen", freePort(t)}, []string{dir, "another skepd", "--data-dir"}},
		{"data directory is a file", []string{"--data-dir", file, "--listen", freePort(t)}, []string{"data directory " + file, "not a directory"}},
		{"join without a token", []string{"--data-dir", t.TempDir(), "--join", "https://10.0.0.1:6443"}, []string{"--join needs a --token", "skep token create --server"}},
		{"join with a cluster of its own", []string{"--data-dir", own, "--join", "https://10.0.0.1:6443", "--token", "t"}, []string{own, "holds a cluster of its own"}},
		{"join without a URL", []string{"--data-dir", t.TempDir(), "--join", "10.0.0.1:6443", "--token", "skep2." + strings.Repeat("0", 32) + ".aaaaaa." + strings.Repeat("b", 16),
			"--listen", freePort(t), "--dns-etcd-listen", freePort(t), "--etcd-peer-listen", freePort(t)}, []string{`--join "10.0.0.1:6443"`, "https://ADDR:6443"}},
		{"lb-cidr", []string{"--data-dir", t.TempDir(), "--lb-cidr", "192.0.2.9-192.0.2.1"}, []string{"--lb-cidr", "192.0.2.9-192.0.2.1 ends before it begins"}},
		{"lb-cidr in a range of others", []string{"--data-dir", t.TempDir(), "--lb-cidr", "198.51.100.0/24,10.244.7.0/28"}, []string{"--lb-cidr 10.244.7.0/28 and --pod-cidr 10.244.0.0/16 overlap"}},
		{"pod range too small", []string{"--data-dir", t.TempDir(), "--cluster-cidr", "10.244.0.0/25"}, []string{"--pod-cidr 10.244.0.0/25 is too small", "/24"}},
		{"two ranges of one family", []string{"--data-dir", t.TempDir(), "--pod-cidr", "10.244.0.0/16,10.245.0.0/16"}, []string{"--pod-cidr", "one of each family"}},
		{"services in the pod range", []string{"--data-dir", t.TempDir(), "--service-cidr", "10.244.3.0/24"}, []string{"--service-cidr 10.244.3.0/24 and --pod-cidr 10.244.0.0/16 overlap"}},
		{"bad range", []string{"--data-dir", t.TempDir(), "--service-cidr", "10.96.0.1/16"}, []string{"--service-cidr 10.96.0.1/16", "10.96.0.0/16"}},
		{"no port", []string{"--data-dir", t.TempDir(), "--listen", "127.0.0.1"}, []string{"--listen", "ADDR:PORT"}},
		{"etcd away", []string{"--data-dir", t.TempDir(), "--listen", freePort(t), "--etcd-servers", "http://" + freePort(t)}, []string{"etcd at http://127.0.0.1", "does not answer"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, err := exec.Command(skepd, append(tt.args, "--log-level", "error")...).CombinedOutput()
			text := strings.TrimSpace(string(out))
			if err == nil {
				t.Fatalf("skepd starts: %s", text)
			}
			last := text[strings.LastIndex(text, "\n")+1:]
			for _, want := range tt.want {
				if !strings.Contains(last, want) {
					t.Errorf("the last line is %q, want %q in it", last, want)
				}
			}
		})
	}
}
