// Package skepd runs a control plane without agents for benchmarks, with its data in memory.
package skepd

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/skep-io/skep/dataplane/sandbox"
)

// Process is a running control plane.
type Process struct {
	Client kubernetes.Interface
	PID    int
	// URL is that of its API, and Token the first join token.
	URL, Token string
}

// Start runs a skepd program with further flags until the benchmark ends.
func Start(b *testing.B, program string, flags ...string) *Process {
	b.Helper()
	dir := MemoryDir(b)
	var log bytes.Buffer
	address := freePort(b)
	cmd := exec.Command(program, append([]string{"--data-dir", dir, "--listen", address, "--dns-etcd-listen", freePort(b)}, flags...)...)
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
	s := &Process{PID: cmd.Process.Pid, URL: "https://" + address}
	deadline := time.Now().Add(time.Minute)
	for {
		err := s.connect(b.Context(), filepath.Join(dir, "admin.kubeconfig"))
		if err == nil {
			token, err := os.ReadFile(filepath.Join(dir, "join-token"))
			if err != nil {
				b.Fatal(err)
			}
			s.Token = strings.TrimSpace(string(token))
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

func (s *Process) connect(ctx context.Context, kubeconfig string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	config.QPS = -1
	config.ContentType, config.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf,application/json"
	if s.Client, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	return s.Client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
}

// ResidentMB is the memory that the process holds, in 10^6 bytes, when it no longer changes by a hundredth within a second.
func (s *Process) ResidentMB(b *testing.B) float64 {
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

func (s *Process) resident(b *testing.B) float64 {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.PID))
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

// CPU is the processor time that the process has used.
func (s *Process) CPU(b *testing.B) time.Duration {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.PID))
	if err != nil {
		b.Fatal(err)
	}
	_, after, _ := strings.Cut(string(stat), ") ") // the name may have blanks
	fields := strings.Fields(after)
	var ticks time.Duration
	for _, field := range fields[11:13] { // user and system, in hundredths of a second
		n, err := strconv.Atoi(field)
		if err != nil {
			b.Fatal(err)
		}
		ticks += time.Duration(n)
	}
	return ticks * 10 * time.Millisecond
}

// MemoryDir is a folder on a memory disk, so that the disk's speed is no part of the figure.
func MemoryDir(b *testing.B) string {
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
