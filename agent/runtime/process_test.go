package runtime_test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/skep-io/skep/agent/runtime/runtimetest"
)

func signalPid(t testing.TB, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
}

func parentOf(t testing.TB, pid int) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(data), "\n") {
		if strings.HasPrefix(line, "PPid:") {
			return strings.TrimSpace(strings.TrimPrefix(line, "PPid:"))
		}
	}
	t.Fatalf("process %d has no parent", pid)
	return ""
}

// awaitReady returns when a script has said that it is ready. Before, its trap is not set, and the first process of a PID
// namespace ignores what it has no handler for.
func awaitReady(t testing.TB, n *runtimetest.Node, id string) {
	t.Helper()
	runtimetest.Eventually(t, "ready", func() bool { return n.Logs.Text(id) == "ready\n" })
}
