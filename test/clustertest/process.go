package clustertest

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/skep-io/skep/cmd/skep/cluster"
)

// Processes are those of a host whose program has the name and which the condition takes, by their arguments.
func Processes(host *cluster.Node, program string, takes func(argv []string) bool) (pids []int, err error) {
	err = filepath.WalkDir(host.CgroupPath(), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Name() != "cgroup.procs" {
			return nil // a folder that was removed meanwhile
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil
		}
		for _, field := range strings.Fields(string(data)) {
			cmdline, _ := os.ReadFile(filepath.Join("/proc", field, "cmdline"))
			argv := strings.Split(string(bytes.TrimRight(cmdline, "\x00")), "\x00")
			if filepath.Base(argv[0]) != program || takes != nil && !takes(argv) {
				continue
			}
			pid, err := strconv.Atoi(field)
			if err != nil {
				return err
			}
			pids = append(pids, pid)
		}
		return nil
	})
	return pids, err
}

// Agent is the process of a host's agent.
func Agent(host *cluster.Node) (int, error) {
	pids, err := Processes(host, "skep-agent", func(argv []string) bool { return len(argv) > 1 && strings.HasPrefix(argv[1], "--") })
	if err != nil || len(pids) == 0 {
		return 0, fmt.Errorf("no skep-agent on %s (%v); see %s", host.Name, err, host.LogPath())
	}
	return pids[0], nil
}
