package service

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/skep-io/skep/dataplane/sandbox"
)

func TestMain(m *testing.M) { os.Exit(sandbox.Main(m, nil)) }

// arena is what a benchmark runs in: two cgroups to choose from, of which one has the hooks, and a pin folder.
type arena struct{ hooked, plain, pins string }

// newArena makes one, which ends with the benchmark.
func newArena(b *testing.B) arena {
	b.Helper()
	a := arena{sandbox.NewCgroup(b), sandbox.NewCgroup(b), filepath.Join(sandbox.Pins(b), "skep")}
	b.Cleanup(func() { enter(b, sandbox.Cgroup()) })
	return a
}

// enter moves this process into a cgroup. A socket belongs for ever to the
// cgroup in which it was made.
func enter(b *testing.B, cgroup string) {
	b.Helper()
	if err := os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		b.Fatal(err)
	}
}
