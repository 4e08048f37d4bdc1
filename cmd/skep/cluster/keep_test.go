package cluster

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// keptRuns, if set, is the file in which the server of TestKeepServer notes its starts.
const keptRuns = "SKEP_TEST_KEPT_RUNS"

// keptServer does at each start what the plan says: "ready" and "exit", "exit" without being ready, or "ready" and "stay".
func keptServer(t *testing.T, runs, plan string) {
	before, err := os.ReadFile(runs)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	steps := strings.Fields(plan)
	step := steps[min(bytes.Count(before, []byte("x")), len(steps)-1)]
	if err := os.WriteFile(runs, append(before, 'x'), 0o600); err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(step, "ready") {
		conn, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte("READY=1")); err != nil {
			t.Fatal(err)
		}
	}
	if strings.HasSuffix(step, "exit") {
		os.Exit(1)
	}
	time.Sleep(time.Hour) // until it is ended
}

// A server that has been ready is started again whenever it ends, also by itself, as with a full disk, and also if that happens again before it is
// ready. One that exits by itself without ever having been ready was started wrongly, which the caller has to hear.
func TestKeepServer(t *testing.T) {
	if runs := os.Getenv(keptRuns); runs != "" {
		keptServer(t, runs, os.Getenv(keptRuns+"_PLAN"))
		return
	}
	for _, c := range []struct {
		plan string
		runs int
		ends bool
	}{
		{"ready-exit exit ready-stay", 3, false},
		{"exit", 1, true},
	} {
		runs := filepath.Join(t.TempDir(), "runs")
		t.Setenv(keptRuns, runs)
		t.Setenv(keptRuns+"_PLAN", c.plan)
		ended := make(chan error, 1)
		go func() {
			ended <- keepServer(&hostConfig{Server: []string{os.Args[0], "-test.run=^TestKeepServer$"}})
		}()
		if c.ends {
			var exit *exec.ExitError
			if err := <-ended; !errors.As(err, &exit) {
				t.Errorf("%s: ended with %v", c.plan, err)
			}
		} else {
			awaitRuns(t, runs, c.runs, ended)
			if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; err != nil {
				t.Errorf("%s: ended with %v", c.plan, err)
			}
		}
		if data, err := os.ReadFile(runs); err != nil || len(data) != c.runs {
			t.Errorf("%s: %d starts (%v), want %d", c.plan, len(data), err, c.runs)
		}
	}
}

// awaitRuns waits until the server has been started so often.
func awaitRuns(t *testing.T, path string, want int, ended <-chan error) {
	t.Helper()
	deadline := time.After(time.Minute)
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		if data, err := os.ReadFile(path); err == nil && len(data) >= want {
			return
		}
		select {
		case err := <-ended:
			t.Fatalf("ended with %v", err)
		case <-deadline:
			t.Fatalf("not started %d times within a minute", want)
		case <-ticker.C:
		}
	}
}
