package pod_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/skep-io/skep/agent/runtime/runtimetest"
)

// mountDead mounts a file system that accepts requests and never answers.
func mountDead(t *testing.T, path string) (revive func()) {
	t.Helper()
	device, err := syscall.Open("/dev/fuse", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("a kernel with FUSE is needed: %v", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", device)
	if err := syscall.Mount("skep-test-dead", path, "fuse", syscall.MS_NOSUID|syscall.MS_NODEV, options); err != nil {
		t.Fatalf("mount a FUSE file system: %v", err)
	}
	revive = sync.OnceFunc(func() {
		if err := syscall.Unmount(path, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount the dead file system: %v", err)
		}
		syscall.Close(device) // those who wait get an error
	})
	t.Cleanup(revive)
	return revive
}

func signal(t *testing.T, pid int, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, s); err != nil {
		t.Fatalf("%v to process %d: %v", s, pid, err)
	}
}

// processesWith lists those whose command line or environment has all parts.
func processesWith(parts ...string) (pids []int) {
	entries, _ := os.ReadDir("/proc")
next:
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		command, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		environment, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		text := string(command) + "\x00" + string(environment)
		for _, part := range parts {
			if !strings.Contains(text, part) {
				continue next
			}
		}
		pids = append(pids, pid)
	}
	return pids
}

// processWith is the only one.
func processWith(t *testing.T, parts ...string) int {
	t.Helper()
	pids := processesWith(parts...)
	if len(pids) != 1 {
		t.Fatalf("processes with %q: %v, want one", parts, pids)
	}
	return pids[0]
}

// logText is what the agent has logged.
type logText struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logText) await(t *testing.T, text string) {
	t.Helper()
	runtimetest.Eventually(t, "the log to say "+text, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return strings.Contains(l.text.String(), text)
	})
}

// recordLog keeps what is logged for the test, and shows it if that fails.
func recordLog(t *testing.T) *logText {
	l, before := &logText{}, slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(l, nil)))
	t.Cleanup(func() {
		slog.SetDefault(before)
		if t.Failed() {
			l.mu.Lock()
			defer l.mu.Unlock()
			t.Log(lastLines(l.text.String(), 60))
		}
	})
	return l
}
