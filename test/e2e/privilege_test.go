package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/skep-io/skep/cmd/privilege"
)

// The programs of a running cluster have the capabilities that they keep and no others, in all of their threads. That
// these suffice is shown by the other tests here, which need all that the programs do.
func TestProgramsKeepOnlyWhatTheyNeed(t *testing.T) {
	expect := func(what string, pid string, set privilege.Set) {
		threads, _ := filepath.Glob(filepath.Join("/proc", pid, "task/*/status"))
		if len(threads) == 0 {
			t.Errorf("%s (process %s) has ended", what, pid)
		}
		bounding := statusField(t, filepath.Join("/proc", pid, "status"), "CapBnd")
		for _, thread := range threads {
			var bound uint64
			if _, err := fmt.Sscanf(bounding, "%x", &bound); err != nil {
				t.Fatal(err)
			}
			want := fmt.Sprintf("%016x", set.Mask()&bound)
			if have := statusField(t, thread, "CapEff"); have != want && have != "" {
				t.Errorf("%s: a thread has capabilities %s, want %s (%s)", what, have, want, set)
			}
		}
	}
	expect("skepd", fmt.Sprint(local.SkepdPID()), privilege.ControlPlane)
	agents, writers := agentProcesses(t)
	if len(agents) != nodes || len(writers) != nodes {
		t.Fatalf("found %d agents and %d log writers of %d hosts", len(agents), len(writers), nodes)
	}
	for _, pid := range agents {
		expect("skep-agent", pid, privilege.Agent)
	}
	for _, pid := range writers {
		expect("the log writer", pid, privilege.LogWriter)
	}
}

// agentProcesses are the process ids of this cluster's agents and of their log writers.
func agentProcesses(t *testing.T) (agents, writers []string) {
	t.Helper()
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, link := range links {
		folder := filepath.Dir(link)
		program, _ := os.Readlink(link)
		command, err := os.ReadFile(filepath.Join(folder, "cmdline"))
		if program != filepath.Join(bin, "skep-agent") || err != nil {
			continue
		}
		cgroups, err := os.ReadFile(filepath.Join(folder, "cgroup"))
		if err != nil || !strings.Contains(string(cgroups), "/skep-"+local.Name+"/") {
			continue
		}
		words := strings.Split(string(command), "\x00")
		if slices.Contains(words, "logs") {
			writers = append(writers, filepath.Base(folder))
		} else if slices.Contains(words, "--server") {
			agents = append(agents, filepath.Base(folder))
		}
	}
	return agents, writers
}

// statusField is "" for a thread that has ended.
func statusField(t *testing.T, path, name string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for _, line := range strings.Split(string(data), "\n") {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("%s has no %s", path, name)
	return ""
}
