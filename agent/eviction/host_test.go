package eviction

import (
	"context"
	"testing"
)

func wholeHost(t testing.TB) *Host {
	t.Helper()
	dir := t.TempDir()
	h, err := NewHost(HostConfig{
		Cgroup: "/", PodsCgroup: "/skep-no-such-cgroup", PodsMemory: 1 << 30, Capacity: Capacity{Memory: 1 << 50, Pids: 1 << 22},
		StateDir: dir, ImageFolder: func(context.Context) (string, error) { return dir, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

// A whole machine has every signal, and some of everything left; where no pod has run yet, all of the pods' memory is.
func TestObserveWholeHost(t *testing.T) {
	h := wholeHost(t)
	o, err := h.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range signals {
		seen, ok := o[s]
		if !ok && (s == NodeFsInodesFree || s == ImageFsInodesFree) {
			continue // a file system without a fixed number of inodes
		}
		if !ok || seen.Available <= 0 || seen.Available > seen.Capacity {
			t.Errorf("%s: %+v (%v)", s, seen, ok)
		}
	}
	if o[AllocatableMemory].Available != 1<<30 || h.OwnImages() {
		t.Errorf("pods' memory %+v; images on a disk of their own: %v", o[AllocatableMemory], h.OwnImages())
	}
}

func BenchmarkObserve(b *testing.B) {
	h := wholeHost(b)
	for b.Loop() {
		if _, err := h.Observe(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
