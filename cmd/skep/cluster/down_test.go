package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// traces lists all that a cluster has on this machine, by kind.
func traces(t *testing.T, c *Cluster) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	add := func(kind, what string) { found[kind] = append(found[kind], what) }
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if name := link.Attrs().Name; link.Attrs().Alias == linkAlias(c.Name) || name == bridgeName(c.Name) || strings.HasPrefix(name, "sk-"+linkID(c.Name)+"-") {
			add("links", name)
		}
	}
	namespaces, err := os.ReadDir(netnsDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range namespaces {
		if strings.Contains(entry.Name(), c.Name) {
			add("namespaces", entry.Name())
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, c.Name) {
			add("mounts", line)
		}
	}
	for _, root := range c.cgroups.all() {
		_ = filepath.WalkDir(root+clusterCgroup(c.Name), func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				add("cgroups", path)
			}
			return nil
		})
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range processes {
		cgroup, _ := os.ReadFile(path)
		var pid int
		fmt.Sscanf(path, "/proc/%d/", &pid)
		if _, status, err := processStart(pid); err != nil || status == 'Z' {
			continue // ended: the machine's first process has not reaped it yet
		}
		cmdline, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		if strings.Contains(string(cgroup), clusterCgroup(c.Name)) || strings.Contains(string(cmdline), c.Dir) {
			add("processes", filepath.Dir(path)+" "+strings.ReplaceAll(string(cmdline), "\x00", " "))
		}
	}
	if _, err := os.Stat(c.Dir); err == nil {
		add("folder", c.Dir)
	}
	return found
}

func requireGone(t *testing.T, c *Cluster) {
	t.Helper()
	for kind, what := range traces(t, c) {
		t.Errorf("down left %s:\n%s", kind, strings.Join(what, "\n"))
	}
}

func TestDownLeavesNothing(t *testing.T) {
	c := hosts(t, 2)
	before := traces(t, c)
	for _, kind := range []string{"links", "namespaces", "mounts", "cgroups", "processes", "folder"} {
		if len(before[kind]) == 0 {
			t.Errorf("a running cluster shows no %s: the search for what is left would miss them", kind)
		}
	}
	var out strings.Builder
	if err := Down(t.Context(), c.Name, c.Dir, &out); err != nil {
		t.Fatal(err)
	}
	requireGone(t, c)
	if !strings.Contains(out.String(), "is gone: removed processes and cgroup") {
		t.Errorf("down said %q", out.String())
	}
	out.Reset()
	if err := Down(t.Context(), c.Name, c.Dir, &out); err != nil {
		t.Errorf("down twice: %v", err)
	}
	if want := "No cluster \"" + c.Name + "\": nothing to remove.\n"; out.String() != want {
		t.Errorf("down twice said %q, want %q", out.String(), want)
	}
}

func TestDownAfterCrash(t *testing.T) {
	for _, test := range []struct {
		name  string
		crash func(t *testing.T, c *Cluster)
	}{
		{"all processes killed", func(t *testing.T, c *Cluster) {
			if err := c.cgroups.kill(t.Context(), clusterCgroup(c.Name)); err != nil {
				t.Fatal(err)
			}
		}},
		{"a host paused", func(t *testing.T, c *Cluster) {
			if err := node(t, c, "node1").Pause(t.Context()); err != nil {
				t.Fatal(err)
			}
		}},
		{"state folder removed", func(t *testing.T, c *Cluster) {
			// The host runs, and writes in its folder.
			for try := 0; ; try++ {
				err := os.RemoveAll(c.Dir)
				if err == nil {
					return
				}
				if !errors.Is(err, syscall.ENOTEMPTY) || try == 100 {
					t.Fatal(err)
				}
			}
		}},
		{"state damaged", func(t *testing.T, c *Cluster) {
			if err := os.WriteFile(statePath(c.Dir), []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		{"namespace half made", func(t *testing.T, c *Cluster) {
			if err := os.WriteFile(netnsPath(netnsName(c.Name, "node9")), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := hosts(t, 1)
			test.crash(t, c)
			if err := Down(t.Context(), c.Name, c.Dir, t.Output()); err != nil {
				t.Fatal(err)
			}
			requireGone(t, c)
		})
	}
}

func TestDownSparesOthers(t *testing.T) {
	mine := hosts(t, 1)
	// The other's name begins with mine: patterns must not match both.
	other, err := newCluster(mine.Name+"-b", filepath.Join(t.TempDir(), "other"), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = Down(context.Background(), other.Name, other.Dir, io.Discard) })
	raise(t, other, 1)
	if err := Down(t.Context(), mine.Name, mine.Dir, t.Output()); err != nil {
		t.Fatal(err)
	}
	dial(t, node(t, other, "node1"), node(t, other, "node1"))
	if power, err := node(t, other, "node1").Power(); err != nil || !power.Running {
		t.Errorf("the other cluster's host: %v, %v", power, err)
	}
}

func TestStateIsRemovedPastMounts(t *testing.T) {
	disk, dir := t.TempDir(), filepath.Join(t.TempDir(), "cluster")
	precious, left := filepath.Join(disk, "precious"), filepath.Join(dir, "node1", "state", "a b")
	if err := errors.Join(os.WriteFile(precious, nil, 0o600), os.MkdirAll(left, 0o700), unix.Mount(disk, left, "", unix.MS_BIND, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(left, unix.MNT_DETACH) })
	if err := removeStateDir(dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder stays: %v", err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Errorf("removed through a mount: %v", err)
	}
}
