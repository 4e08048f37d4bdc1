package etcd

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"
)

// exitOnFatal ends the process when etcd cannot go on, as with a full disk: etcd has
// acknowledged only what is on the disk, and the next start continues from there. There
// is nothing to clean up, and waiting would keep the address and the lease.
func exitOnFatal(err error) {
	slog.Error("etcd failed; skepd exits and continues from the data on disk when it is started again", "err", err)
	fmt.Fprintln(os.Stderr, "skepd:", err)
	os.Exit(1)
}

// explain adds the name of the disk to the error of a full disk.
func explain(dir string, err error) error {
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) != nil {
		return fmt.Errorf("%w: make room on the disk of %s", err, dir)
	}
	free, size := fs.Bavail*uint64(fs.Bsize), fs.Blocks*uint64(fs.Bsize)
	return fmt.Errorf("%w: the disk of %s is full (%d of %d MiB free, %d of %d inodes): make room there", err, dir, free>>20, size>>20, fs.Ffree, fs.Files)
}
