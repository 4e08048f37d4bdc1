package cluster

import (
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// /proc/self must show the program's own namespaces, whichever namespaces threads joined.
func TestThreadsThatLeaveAreNeverTheMainThread(t *testing.T) {
	before, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 64 {
		group.Go(func() {
			if err := onOwnThread(func() error { return unix.Unshare(unix.CLONE_NEWNS) }); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if after, err := os.Readlink("/proc/self/ns/mnt"); err != nil || after != before {
		t.Errorf("the program was in %s and is now in %s: %v", before, after, err)
	}
}
