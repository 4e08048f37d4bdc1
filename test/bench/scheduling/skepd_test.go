package scheduling

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/skep-io/skep/dataplane/sandbox"
)

// skepd is a running control plane, its data in memory.
type skepd struct {
	client kubernetes.Interface
	pid    int
}

// start runs a skepd program until the benchmark ends. Nodes may be silent for as long as it runs.
func start(b *testing.B, program string) *skepd {
	b.Helper()
	dir := memoryDir(b)
	var log bytes.Buffer
	cmd := exec.Command(program, "--data-dir", dir, "--listen", freePort(b), "--dns-etcd-listen", freePort(b),
		"--pod-cidr", "172.16.0.0/12", "--node-cidr-mask-size", "26", "--node-monitor-grace", "10h")
	cmd.Stderr = &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := sandbox.Start(cmd); err != nil {
		b.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	b.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		if err := <-ended; err != nil {
			b.Errorf("%s: %v\n%s", program, err, log.String())
		}
	})
	s := &skepd{pid: cmd.Process.Pid}
	deadline := time.Now().Add(time.Minute)
	for {
		err := s.connect(b.Context(), filepath.Join(dir, "admin.kubeconfig"))
		if err == nil {
			return s
		}
		select {
		case err := <-ended:
			ended <- err
			b.Fatalf("%s ended while starting", program)
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			b.Fatalf("%s does not serve: %v", program, err)
		}
	}
}

func (s *skepd) connect(ctx context.Context, kubeconfig string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	config.QPS = -1
	config.ContentType, config.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf,application/json"
	if s.client, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	return s.client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
}

// residentMB is the memory that the process holds, in 10^6 bytes, when it no longer changes by a hundredth within a second.
func (s *skepd) residentMB(b *testing.B) float64 {
	b.Helper()
	ticks := time.NewTicker(time.Second)
	defer ticks.Stop()
	before := s.resident(b)
	for range 30 {
		<-ticks.C
		now := s.resident(b)
		if math.Abs(now-before) <= before/100 {
			return now
		}
		before = now
	}
	b.Fatal("skepd's memory does not come to rest in 30 s")
	return 0
}

func (s *skepd) resident(b *testing.B) float64 {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid))
	if err != nil {
		b.Fatal(err)
	}
	_, text, _ := strings.Cut(string(status), "VmRSS:")
	var kib float64
	if _, err := fmt.Sscan(text, &kib); err != nil {
		b.Fatalf("no VmRSS in the process's status: %v", err)
	}
	return kib * 1024 / 1e6
}

// memoryDir is a folder on a memory disk, so that the disk's speed is no part of the figure.
func memoryDir(b *testing.B) string {
	b.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "skep-bench-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			b.Error(err)
		}
	})
	return dir
}

func freePort(b *testing.B) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
