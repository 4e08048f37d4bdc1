// Package attacks carries out attacks on a cluster as attackers would, and outages as operators meet them: from a container, from
// outside, and against nodes and the control plane. README.md says what each is, and what prevents it. Tests that need
// a clock, a disk or an etcd of their own drive the real part of Skep alone.
package attacks

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/cmd/skep/cluster"
	"github.com/skep-io/skep/test/clustertest"
)

const patience = clustertest.Patience

var local *clustertest.Cluster

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "skep-attacks-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	encryption := filepath.Join(dir, "encryption.yaml")
	key := base64.StdEncoding.EncodeToString([]byte("32 bytes that are a key of tests"))
	if err := os.WriteFile(encryption, fmt.Appendf(nil, encryptionConfig, key), 0o600); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	options := cluster.Options{
		Nodes: 2, Routed: []string{"node2"}, // so that packets between pods are wrapped
		Labels:    map[string]map[string]string{"node2": {corev1.LabelNodeExcludeBalancers: "true"}}, // on another link than the pool's addresses
		SkepdArgs: []string{"--encryption-provider-config", encryption}, AgentArgs: []string{"--pod-max-pids", "100"},
	}
	return clustertest.Main(m, "atk", "../../../bin", options, func(c *clustertest.Cluster) { local = c })
}

const encryptionConfig = `kind: EncryptionConfiguration
apiVersion: apiserver.config.k8s.io/v1
resources:
- resources: [secrets]
  providers:
  - aescbc: {keys: [{name: first, secret: %s}]}
`

// pod is one that runs a script in a container named "main"; change may be nil.
func pod(name, script string, change func(*corev1.Pod)) *corev1.Pod {
	grace := int64(1)
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{
		TerminationGracePeriodSeconds: &grace, RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{container("main", script)},
	}}
	if change != nil {
		change(p)
	}
	return p
}

func container(name, script string) corev1.Container {
	return corev1.Container{Name: name, Image: "skep/shell:dev", ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{"sh", "-c", script}}
}

// space is a namespace of one test.
type space struct{ *clustertest.Space }

func newSpace(t *testing.T) *space {
	t.Helper()
	return &space{local.NewSpace(t)}
}

func (s *space) create(p *corev1.Pod) {
	s.Helper()
	if _, err := local.API.CoreV1().Pods(s.Name).Create(s.Context(), p, metav1.CreateOptions{}); err != nil {
		s.Fatal(err)
	}
}

// awaitPod watches one pod until the condition holds.
func (s *space) awaitPod(name, what string, condition func(*corev1.Pod) bool) *corev1.Pod {
	s.Helper()
	var found *corev1.Pod
	s.Await(name+": "+what, func(pods []corev1.Pod) bool {
		for i := range pods {
			if pods[i].Name == name && condition(&pods[i]) {
				found = &pods[i]
			}
		}
		return found != nil
	})
	return found
}

func (s *space) awaitReady(name string) *corev1.Pod {
	s.Helper()
	return s.awaitPod(name, "ready", func(p *corev1.Pod) bool { return clustertest.Ready(*p) })
}

// awaitFailed waits until the pod has failed, for a reason that its status gives.
func (s *space) awaitFailed(name string) (reason, message string) {
	s.Helper()
	p := s.awaitPod(name, "failed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	return p.Status.Reason, p.Status.Message
}

// awaitRefused waits until the container "main" waits for a reason other than its creation.
func (s *space) awaitRefused(name string) (reason, message string) {
	s.Helper()
	p := s.awaitPod(name, "refused", func(p *corev1.Pod) bool { w := waiting(p); return w != nil && w.Message != "" })
	return waiting(p).Reason, waiting(p).Message
}

func waiting(p *corev1.Pod) *corev1.ContainerStateWaiting {
	for _, c := range p.Status.ContainerStatuses {
		if c.Name == "main" {
			return c.State.Waiting
		}
	}
	return nil
}

// awaitMessage waits until the pod's container "main" has ended, and returns what it left in its termination message.
func (s *space) awaitMessage(name string) string {
	s.Helper()
	p := s.awaitPod(name, "ended", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].State.Terminated != nil
	})
	return strings.TrimSpace(p.Status.ContainerStatuses[0].State.Terminated.Message)
}

// say makes a script leave what it prints in the termination message.
func say(script string) string { return "{ " + script + "; } > /dev/termination-log 2>&1" }

// eventually asks until an attempt does not fail.
func eventually(t testing.TB, what string, attempt func() error) {
	t.Helper()
	clustertest.Eventually(t, what, attempt)
}
