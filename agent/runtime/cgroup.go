package runtime

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/skep-io/skep/agent/cgroup"
)

// Cgroups is the cgroup tree of the pods.
func (r *Runtime) Cgroups() *cgroup.Tree { return r.cgroups }

// oomKilled says whether the kernel's out-of-memory killer killed a process of the cgroup. The
// folder exists until the task is deleted, so the answer is exact between the exit and the
// deletion.
func oomKilled(cgroupPath string) bool {
	for _, file := range []string{
		filepath.Join(cgroup.Root, "memory", cgroupPath, "memory.oom_control"),
		filepath.Join(cgroup.Root, cgroupPath, "memory.events"),
	} {
		f, err := os.Open(file)
		if err != nil {
			continue
		}
		defer f.Close()
		for scan := bufio.NewScanner(f); scan.Scan(); {
			if name, value, _ := strings.Cut(scan.Text(), " "); name == "oom_kill" {
				n, err := strconv.Atoi(value)
				return err == nil && n > 0
			}
		}
	}
	return false
}
