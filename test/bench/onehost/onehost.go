// Package onehost gives benchmarks a local cluster of one host.
//
// It owns the cluster named "bench": one process at a time has it, and removes the remains of a killed one.
package onehost

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/cmd/skep/cluster"
)

const name = "bench"

// Up makes the cluster from the programs in bin, which ends with the benchmark.
func Up(b *testing.B) *cluster.Cluster {
	b.Helper()
	programs, err := cluster.BinariesIn("../../../bin")
	if err != nil {
		b.Fatal(err)
	}
	home := filepath.Join(os.TempDir(), "skep-bench-cluster")
	if err := os.MkdirAll(home, 0o700); err != nil {
		b.Fatal(err)
	}
	lock, err := os.Open(home)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { lock.Close() })
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		b.Fatalf("lock %s: %v: another benchmark runs a cluster: wait for its end", home, err)
	}
	dir := filepath.Join(home, name)
	down := func(ctx context.Context) error {
		if err := cluster.Down(ctx, name, dir, io.Discard); err != nil {
			return fmt.Errorf("remove the cluster of benchmarks: %w", err)
		}
		return nil
	}
	if err := down(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := down(context.Background()); err != nil {
			b.Error(err)
		}
		os.RemoveAll(home)
	})
	local, err := cluster.Up(b.Context(), cluster.Options{Name: name, Dir: dir, Nodes: 1, NoDNS: true, Bin: programs, Progress: os.Stderr})
	if err != nil {
		b.Fatal(err)
	}
	return local
}
