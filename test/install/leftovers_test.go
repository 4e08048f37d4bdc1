package install

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/skep-io/skep/cmd/skep/cluster"
)

// inventory is all that an installation can leave on a host, a line per thing.
// Mounts elsewhere are the machine's: at boot a host has a copy of them.
func inventory(t *testing.T, n *cluster.Node) []string {
	t.Helper()
	script := `
cut -d' ' -f4,5 /proc/self/mountinfo | grep -E ' /(etc|run|sys|usr|var)(/|$)' | sed 's/^/mount /'
ip -o link | sed -E 's/^[0-9]+: ([^ :@]+).*/link \1/'
ip -o addr | grep -v 'inet6 fe80' | sed -E 's/^[0-9]+: //; s/ +valid_lft.*//; s/^/address /'
ip route show table all | grep -v -e '^local' -e '^broadcast' -e '^multicast' | sed 's/^/route /'
ip rule | sed 's/^/rule /'
nft list ruleset | sed 's/^/nft /'
find /sys/fs/bpf -mindepth 1 | sed 's/^/pin /'
find /sys/fs/cgroup -mindepth 2 -type d -not -path '*/system.slice*' | sed 's/^/cgroup /'
find /run -mindepth 1 -not -path '/run/stand-in*' -not -path '/run/home*' | sed 's/^/file /'
`
	out := run(t, n, script)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	lines = append(lines, processes(t, n)...)
	lines = append(lines, files(t, n)...)
	lines = append(lines, programs(t, n)...)
	slices.Sort(lines)
	return slices.Compact(lines)
}

// processes are those that are in the host's cgroup or below it, by command.
func processes(t *testing.T, n *cluster.Node) []string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(n.CgroupPath(), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Name() != "cgroup.procs" {
			return err
		}
		pids, err := os.ReadFile(path)
		for _, pid := range strings.Fields(string(pids)) {
			if command, err := os.ReadFile(filepath.Join("/proc", pid, "cmdline")); err == nil {
				lines = append(lines, "process "+strings.ReplaceAll(string(command), "\x00", " "))
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// files are what was written to the host's own disk.
func files(t *testing.T, n *cluster.Node) []string {
	t.Helper()
	disk := filepath.Join(filepath.Dir(n.StateDir()), "disk")
	var lines []string
	err := filepath.WalkDir(disk, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && entry.Name() == "work" {
			return fs.SkipDir // the overlay's own
		}
		if !entry.IsDir() {
			lines = append(lines, "file "+strings.TrimPrefix(path, disk))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// machineFiles are those of the machine itself at places where the page installs things.
func machineFiles(t *testing.T) []string {
	t.Helper()
	var found []string
	for _, pattern := range []string{
		"/usr/local/bin/skep*", "/etc/systemd/system/skep*", "/etc/systemd/system/*/skep*", "/etc/default/skep*",
		"/var/lib/skep*", "/run/skep*", "/sys/fs/bpf/skep*", "/sys/fs/cgroup/skep", "/sys/fs/cgroup/*/skep",
	} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, paths...)
	}
	return found
}

// programs are what is attached to the host's cgroup.
func programs(t *testing.T, n *cluster.Node) []string {
	t.Helper()
	var lines []string
	for _, attach := range []ebpf.AttachType{
		ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect,
		ebpf.AttachCGroupUDP4Sendmsg, ebpf.AttachCGroupUDP6Sendmsg,
		ebpf.AttachCGroupUDP4Recvmsg, ebpf.AttachCGroupUDP6Recvmsg,
		ebpf.AttachCgroupInet4GetPeername, ebpf.AttachCgroupInet6GetPeername,
	} {
		cgroup, err := os.Open(n.CgroupPath())
		if err != nil {
			t.Fatal(err)
		}
		result, err := link.QueryPrograms(link.QueryOptions{Target: int(cgroup.Fd()), Attach: attach})
		cgroup.Close()
		if err != nil {
			t.Fatal(err)
		}
		for range result.Programs {
			lines = append(lines, fmt.Sprintf("program %s", attach))
		}
	}
	return lines
}

// more lists what is in now and was not in before.
func more(before, now []string) []string {
	return slices.DeleteFunc(slices.Clone(now), func(line string) bool { return slices.Contains(before, line) })
}
