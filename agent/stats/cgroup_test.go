package stats

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

func hierarchy(t testing.TB) *Hierarchy {
	t.Helper()
	h, err := DetectHierarchy(cgroupRoot)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// realCgroup makes a pod's and its container's cgroup in every hierarchy that this host counts in.
func realCgroup(t testing.TB) (pod, container string) {
	t.Helper()
	pod = fmt.Sprintf("/skep-stats-test-%d-%s", os.Getpid(), strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-")))
	container = pod + "/c"
	made := map[string]bool{"": true}
	for _, dir := range hierarchy(t).dirs {
		if made[dir] {
			continue
		}
		made[dir] = true
		if err := os.MkdirAll(filepath.Join(dir, container), 0o755); err != nil {
			t.Fatalf("make a cgroup (the tests need root): %v", err)
		}
		t.Cleanup(func() {
			for _, path := range []string{container, pod} {
				if err := unix.Rmdir(filepath.Join(dir, path)); err != nil {
					t.Errorf("remove cgroup: %v", err)
				}
			}
		})
	}
	return pod, container
}

// runIn runs a shell script in the cgroup and returns when it is there.
func runIn(t testing.TB, container, script string) *exec.Cmd {
	t.Helper()
	var join strings.Builder
	for _, dir := range hierarchy(t).dirs {
		if dir != "" {
			fmt.Fprintf(&join, "echo $$ > %s\n", filepath.Join(dir, container, "cgroup.procs"))
		}
	}
	cmd := exec.Command("/bin/sh", "-c", join.String()+"echo ready\n"+script)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended by itself
		_ = cmd.Wait()
	})
	if _, err := out.Read(make([]byte, 6)); err != nil {
		t.Fatalf("the process in the cgroup did not start: %v", err)
	}
	return cmd
}

// awaitExec waits until a process has become another program.
func awaitExec(t *testing.T, pid int, name string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil {
			t.Fatal(err)
		}
		if strings.TrimSpace(string(comm)) == name {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d is still %s", pid, comm)
		}
		if _, err := unix.Poll(nil, 5); err != nil && !errors.Is(err, unix.EINTR) {
			t.Fatal(err)
		}
	}
}

func readOnce(t *testing.T, path string) Usage {
	t.Helper()
	c, err := hierarchy(t).Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	u, err := c.Read(make([]byte, 16<<10), true)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestUsageFollowsTheProcess(t *testing.T) {
	pod, container := realCgroup(t)
	file := filepath.Join(t.TempDir(), "data")
	cmd := runIn(t, container, fmt.Sprintf(`dd if=/dev/zero of=%s bs=1M count=24 conv=fsync 2>/dev/null; exec sleep 600`, file))
	awaitExec(t, cmd.Process.Pid, "sleep")
	u := readOnce(t, container)
	if u.Memory < 24<<20 {
		t.Errorf("memory is %d after writing a file of 24 MiB", u.Memory)
	}
	if u.WorkingSet > u.Memory-16<<20 {
		t.Errorf("working set %d of %d: a file that was written once is not in use", u.WorkingSet, u.Memory)
	}
	if u.CPU == 0 || u.Processes != 1 {
		t.Errorf("usage %+v", u)
	}
	if p := readOnce(t, pod); p.CPU < u.CPU || p.Memory < u.Memory || p.Processes != 1 {
		t.Errorf("pod %+v, its container %+v", p, u)
	}
}

func TestUnknownCgroupIsGone(t *testing.T) {
	if _, err := hierarchy(t).Open("/never/there"); !errors.Is(err, ErrGone) {
		t.Fatalf("open: %v", err)
	}
	if _, err := DetectHierarchy(t.TempDir()); err == nil {
		t.Fatal("an empty folder has cgroups")
	}
}

func TestParseEveryFormat(t *testing.T) {
	want := Usage{CPU: 1234000, Memory: 1000000, WorkingSet: 700000, RSS: 4096, Swap: 9, PageFaults: 17, MajorPageFaults: 3, Processes: 5, ReadBytes: 11, WriteBytes: 22, Reads: 33, Writes: 44}
	for name, c := range map[string]struct {
		unified bool
		text    [files]string
	}{
		"v2": {true, [files]string{
			cpuFile: "usage_usec 1234\nuser_usec 1000\nsystem_usec 234\n", memoryFile: "1000000\n", pidsFile: "5\n", swapFile: "9\n",
			memoryStatFile: "anon 4096\nfile 8192\ninactive_anon 1\ninactive_file 300000\npgfault 17\npgmajfault 3\n",
			ioBytesFile:    "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n8:16 rbytes=10 wbytes=20 rios=30 wios=40 dbytes=0 dios=0\n",
		}},
		"v1": {false, [files]string{
			cpuFile: "1234000\n", memoryFile: "1000000\n", pidsFile: "5\n",
			memoryStatFile: "cache 1\nrss 2\ninactive_file 3\npgfault 4\ntotal_cache 5\ntotal_rss 4096\ntotal_rss_huge 8\ntotal_swap 9\ntotal_pgfault 17\ntotal_pgmajfault 3\ntotal_inactive_file 300000\n",
			ioBytesFile:    "8:0 Read 1\n8:0 Write 2\n8:0 Total 3\n8:16 Read 10\n8:16 Write 20\nTotal 33\n",
			ioCountFile:    "8:0 Read 3\n8:0 Write 4\n8:16 Read 30\n8:16 Write 40\n",
		}},
	} {
		var got Usage
		for f, text := range c.text {
			if text != "" {
				got.parse(file(f), c.unified, []byte(text))
			}
		}
		if got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
}

// One container's sample, as for a summary, with I/O, and what only a scrape of all metrics asks for; the goal is 30 microseconds of CPU.
func BenchmarkSample(b *testing.B) {
	_, container := realCgroup(b)
	runIn(b, container, "exec sleep 600")
	hierarchy := hierarchy(b)
	cg, err := hierarchy.Open(container)
	if err != nil {
		b.Fatal(err)
	}
	defer cg.Close()
	buf := make([]byte, 16<<10)
	for _, withIO := range []bool{false, true} {
		b.Run(fmt.Sprintf("io=%v", withIO), func(b *testing.B) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			b.ReportAllocs()
			before := threadCPU(b)
			for b.Loop() {
				if _, err := cg.Read(buf, withIO); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(threadCPU(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
	b.Run("detail", func(b *testing.B) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		before := threadCPU(b)
		for b.Loop() {
			if _, err := hierarchy.Detail(container, buf); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(threadCPU(b)-before)/float64(b.N), "cpu-ns/op")
	})
}

// threadCPU is the time that this thread has computed, which others' load does not change.
func threadCPU(b *testing.B) int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		b.Fatal(err)
	}
	return ts.Nano()
}
