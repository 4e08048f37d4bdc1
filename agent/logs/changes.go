package logs

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// changes reports changes in a folder.
type changes struct {
	f    *os.File
	stop func() bool
	buf  [4096]byte
}

func watchDir(ctx context.Context, dir string) (*changes, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch log: %w", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	mask := uint32(unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_CREATE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_DELETE | unix.IN_DELETE_SELF)
	if _, err := unix.InotifyAddWatch(fd, dir, mask); err != nil {
		f.Close()
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	c := &changes{f: f}
	c.stop = context.AfterFunc(ctx, func() { f.Close() })
	return c, nil
}

// wait returns after at least one change.
func (c *changes) wait() error {
	_, err := c.f.Read(c.buf[:])
	return err
}

func (c *changes) close() {
	c.stop()
	c.f.Close()
}
