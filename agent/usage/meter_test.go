package usage

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pods is what a test has the meter measure.
type pods struct {
	mu    sync.Mutex
	trees map[string][]Tree
	said  map[string][]Pod
}

func (p *pods) config() Config {
	return Config{
		Interval: time.Millisecond,
		Pods: func() (list []string) {
			p.mu.Lock()
			defer p.mu.Unlock()
			for uid := range p.trees {
				list = append(list, uid)
			}
			return list
		},
		Trees: func(_ context.Context, uid string) []Tree {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.trees[uid]
		},
		Measured: func(uid string, pod Pod) {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.said == nil {
				p.said = map[string][]Pod{}
			}
			p.said[uid] = append(p.said[uid], pod)
		},
	}
}

func (p *pods) drop(uid string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.trees, uid)
}

func (p *pods) reports(uid string) []Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said[uid]
}

func run(t *testing.T, m *Meter) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = m.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); {
		if time.Now().After(deadline) {
			t.Fatalf("not in a minute: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fill makes many empty files in few folders.
func fill(t *testing.T, root string, n int) {
	t.Helper()
	for i := range n {
		if i%5000 == 0 {
			must(t, os.Mkdir(filepath.Join(root, fmt.Sprint(i/5000)), 0o700))
		}
		fd, err := unix.Open(filepath.Join(root, fmt.Sprintf("%d/%d", i/5000, i)), unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
		must(t, err)
		unix.Close(fd)
	}
}

// inTmpfs is a folder in memory, where files are made quickly.
func inTmpfs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func volume(path string) []Tree { return []Tree{{Key: Key{Volume, "v"}, Path: path}} }

func TestEachTreeIsMeasured(t *testing.T) {
	root, memory := t.TempDir(), t.TempDir()
	for _, dir := range []string{"v", "logs", "layer", "etc"} {
		must(t, os.Mkdir(filepath.Join(root, dir), 0o700))
		must(t, os.WriteFile(filepath.Join(root, dir, "file"), make([]byte, 40000), 0o600))
	}
	must(t, os.Link(filepath.Join(root, "v/file"), filepath.Join(root, "v/again")))
	must(t, os.Truncate(filepath.Join(root, "v/file"), 1<<30)) // a hole uses nothing
	must(t, unix.Mount("tmpfs", memory, "tmpfs", 0, "size=1m"))
	t.Cleanup(func() { _ = unix.Unmount(memory, unix.MNT_DETACH) })
	must(t, os.WriteFile(filepath.Join(memory, "file"), make([]byte, 40000), 0o600))
	at := func(name string) string { return filepath.Join(root, name) }
	p := &pods{trees: map[string][]Tree{"a": {
		{Key: Key{Volume, "v"}, Path: at("v")}, {Key: Key{Memory, "m"}, Path: memory}, {Key: Key{Memory, "not mounted"}, Path: root}, {Key: Key{Volume, "absent"}, Path: at("absent")},
		{Key: Key{Logs, "c"}, Path: at("logs")}, {Key: Key{Layer, "c"}, Path: at("layer")}, {Key: Key{Files, "etc"}, Path: at("etc")},
	}}}
	m := New(p.config())
	run(t, m)
	eventually(t, "figures", func() bool { _, ok := m.Pod("a"); return ok })
	pod, _ := m.Pod("a")
	one := Amount{Bytes: 40960 + 4096, Inodes: 2}
	for key, want := range map[Key]Amount{
		{Volume, "v"}: one, {Logs, "c"}: one, {Layer, "c"}: one, {Files, "etc"}: one,
		{Memory, "m"}: {40960, 2}, {Memory, "not mounted"}: {}, {Volume, "absent"}: {},
	} {
		if got := pod.Trees[key]; got != want {
			t.Errorf("%v uses %+v, want %+v", key, got, want)
		}
	}
	if got, want := pod.Total(), (Amount{4 * one.Bytes, 8}); got != want {
		t.Errorf("the pod uses %+v, want %+v", got, want)
	}
	if got, want := pod.Container("c"), (Amount{2 * one.Bytes, 4}); got != want {
		t.Errorf("the container uses %+v, want %+v", got, want)
	}
	p.drop("a")
	eventually(t, "the pod to be forgotten", func() bool { _, ok := m.Pod("a"); return !ok })
}

// A pod with very many files delays no other's figures, and its own are known to be large before all have been counted.
func TestManyFilesDelayNobody(t *testing.T) {
	const files = 100_000
	large, small := inTmpfs(t), t.TempDir()
	fill(t, large, files)
	p := &pods{trees: map[string][]Tree{"large": volume(large), "small": volume(small)}}
	m := New(p.config())
	m.slice = time.Millisecond
	run(t, m)
	eventually(t, "figures of the large one", func() bool { pod, _ := m.Pod("large"); return !pod.At.IsZero() })
	all := p.reports("large")
	if got, want := all[len(all)-1].Total().Inodes, uint64(1+files+files/5000); got != want {
		t.Errorf("%d inodes, want %d", got, want)
	}
	var last uint64
	for i, pod := range all {
		now := pod.Total().Inodes
		if now < last {
			t.Errorf("report %d: %d inodes after %d", i, now, last)
		}
		last = now
	}
	if len(all) < 3 {
		t.Errorf("%d reports: the walk was not cut into slices", len(all))
	}
	if n := len(p.reports("small")); n < len(all)/2 {
		t.Errorf("the small pod was measured %d times, the large one has had %d turns", n, len(all))
	}
}

// What cannot be counted in time keeps its last figure.
func TestLastFigureStaysWhenTimeIsOver(t *testing.T) {
	root := t.TempDir()
	must(t, os.WriteFile(filepath.Join(root, "file"), make([]byte, 40000), 0o600))
	p := &pods{trees: map[string][]Tree{"a": volume(root)}}
	m := New(p.config())
	one := &measurement{uid: "a"}
	m.turn(context.Background(), one)
	known, ok := m.Pod("a")
	if !ok || known.Total() != (Amount{40960 + 4096, 2}) {
		t.Fatalf("known: %+v", known)
	}
	fill(t, root, 2000)
	m.slice, m.maxCost = time.Nanosecond, 0
	for range 5 {
		m.turn(context.Background(), one)
		if one.began || one.under != nil {
			t.Fatal("the measurement was not given up")
		}
		if pod, _ := m.Pod("a"); pod.At != known.At || pod.Total().Bytes < known.Total().Bytes {
			t.Fatalf("figures became %+v", pod)
		}
	}
}

// More linked files than are remembered are counted by shares.
func TestManyLinkedFilesAreCountedOnce(t *testing.T) {
	const files = 300
	root := t.TempDir()
	for i := range files {
		name := filepath.Join(root, fmt.Sprint(i))
		must(t, os.WriteFile(name, make([]byte, 4096), 0o600))
		for j := range 3 {
			must(t, os.Link(name, fmt.Sprint(name, "-", j)))
		}
	}
	for _, remembered := range []int{maxLinked, 100, 0} {
		c, err := begin(root)
		must(t, err)
		c.maxLinked = remembered
		if done, err := c.goOn(time.Now().Add(time.Minute)); !done || err != nil {
			t.Fatal(done, err)
		}
		var st unix.Stat_t
		must(t, unix.Lstat(root, &st))
		want := Amount{uint64(st.Blocks)*512 + files*4096, 1 + files}
		got := c.amount()
		c.close()
		if got.Inodes+1 < want.Inodes || got.Inodes > want.Inodes || got.Bytes+4096 < want.Bytes || got.Bytes > want.Bytes {
			t.Errorf("%d remembered: %+v, want %+v", remembered, got, want)
		}
	}
}

// A tree is removed under the walk: nothing of it is held.
func TestRemovalIsNotHeldUp(t *testing.T) {
	root := filepath.Join(inTmpfs(t), "tree")
	must(t, os.Mkdir(root, 0o700))
	fill(t, root, 20_000)
	c, err := begin(root)
	must(t, err)
	defer c.close()
	if done, err := c.goOn(time.Now()); done || err != nil {
		t.Fatal(done, err)
	}
	must(t, os.RemoveAll(root))
	if done, err := c.goOn(time.Now().Add(time.Minute)); !done || err != nil {
		t.Fatal(done, err)
	}
}
