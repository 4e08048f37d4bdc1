package sockets

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

type inode struct{ dev, ino uint64 }

// eachNamespace calls visit once in the host's network namespace and in each of
// the others that matter, by inode number. It skips a namespace that cannot be
// entered. When ctx ends it returns after the current visit.
func eachNamespace(ctx context.Context, host *os.File, paths []string, matter map[uint64]struct{}, visit func() error) error {
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine and releases its
		// namespace.
		runtime.LockOSThread()
		done <- visitAll(ctx, host, paths, matter, visit)
	}()
	return <-done
}

func visitAll(ctx context.Context, host *os.File, paths []string, matter map[uint64]struct{}, visit func() error) error {
	seen := map[inode]struct{}{}
	if _, err := enter(int(host.Fd()), seen, nil); err != nil {
		return fmt.Errorf("enter the host's network namespace: %w", err)
	}
	failed := []error{visit()}
	for _, path := range paths {
		if ctx.Err() != nil {
			return errors.Join(append(failed, ctx.Err())...)
		}
		if err := visitPath(path, seen, matter, visit); err != nil {
			failed = append(failed, fmt.Errorf("network namespace %s: %w", path, err))
		}
	}
	return errors.Join(failed...)
}

// visitPath skips a namespace that has ended: its sockets have, too.
func visitPath(path string, seen map[inode]struct{}, matter map[uint64]struct{}, visit func() error) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	entered, err := enter(fd, seen, matter)
	if errors.Is(err, unix.EINVAL) { // the mount was removed, its mount point was not
		return nil
	}
	if err != nil || !entered {
		return err
	}
	return visit()
}

// enter moves the thread into a namespace that matters (nil: it does), unless it
// has been there.
func enter(fd int, seen map[inode]struct{}, matter map[uint64]struct{}) (bool, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return false, err
	}
	at := inode{stat.Dev, stat.Ino}
	_, been := seen[at]
	if _, matters := matter[stat.Ino]; been || (matter != nil && !matters) {
		return false, nil
	}
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return false, err
	}
	seen[at] = struct{}{}
	return true, nil
}

// cgroupID is the kernel's id of a cgroup: its inode.
func cgroupID(path string) (uint64, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return 0, fmt.Errorf("cgroup %s: %w", path, err)
	}
	return stat.Ino, nil
}
