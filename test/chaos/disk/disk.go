// Package disk makes small disks that can be made full or slow while they are in use: an ext4 file system of its own in a file, so that nothing
// else waits for it. A slow disk takes a few writes a second of the processes that it is slow for, by the throttling of cgroup v1's blkio.
package disk

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// blkio is where the controller is mounted on machines that have v1.
const blkio = "/sys/fs/cgroup/blkio"

// Disk is a mounted one.
type Disk struct {
	mount string
	dev   string // MAJOR:MINOR
}

// memory is where disks are, so that they are as fast as they are to be, whatever the machine's disk is doing.
const memory = "/dev/shm"

// Mount makes a disk of a size in bytes at the folder. Unmounting it, by anybody, removes all of it.
func Mount(folder string, size int64) (*Disk, error) {
	f, err := os.CreateTemp(memory, "skep-disk-*")
	if err != nil {
		return nil, err
	}
	image := f.Name()
	defer os.Remove(image) // the device holds it
	if err := errors.Join(f.Truncate(size), f.Close(), os.MkdirAll(folder, 0o700)); err != nil {
		return nil, err
	}
	for _, argv := range [][]string{
		{"mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1", image},
		{"mount", "-o", "loop", image, folder},
	} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, out)
		}
	}
	if err := os.Remove(filepath.Join(folder, "lost+found")); err != nil {
		return nil, err
	}
	var stat unix.Stat_t
	if err := unix.Stat(folder, &stat); err != nil {
		return nil, err
	}
	return &Disk{mount: folder, dev: fmt.Sprintf("%d:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev))}, nil
}

// Unmount removes it.
func (d *Disk) Unmount() error { return unix.Unmount(d.mount, unix.MNT_DETACH) }

// Fill leaves no space on it until empty.
func (d *Disk) Fill() (empty func() error, err error) {
	path := filepath.Join(d.mount, "ballast")
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// Ever smaller pieces, until not even a block is left.
	at := int64(0)
	for piece := int64(256 << 20); piece >= 4096; {
		if err := unix.Fallocate(int(f.Fd()), 0, at, piece); err == nil {
			at += piece
		} else if piece /= 2; !errors.Is(err, unix.ENOSPC) {
			return nil, errors.Join(err, os.Remove(path))
		}
	}
	return func() error { return os.Remove(path) }, nil
}

// Slow has the processes, and what they start, do so many writes a second at most, until restore. Group is the name of their cgroup below
// blkio's root; it is made, and left.
func (d *Disk) Slow(group string, pids []int, writes int) (restore func() error, err error) {
	folder := filepath.Join(blkio, group)
	if _, err := os.Stat(filepath.Join(blkio, "blkio.throttle.write_iops_device")); err != nil {
		return nil, fmt.Errorf("a disk can be made slow only by blkio of cgroup v1: %w", err)
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	for _, pid := range pids {
		err := os.WriteFile(filepath.Join(folder, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return nil, err
		}
	}
	limit := filepath.Join(folder, "blkio.throttle.write_iops_device")
	if err := os.WriteFile(limit, fmt.Appendf(nil, "%s %d", d.dev, writes), 0); err != nil {
		return nil, err
	}
	return func() error {
		err := os.WriteFile(limit, fmt.Appendf(nil, "%s 0", d.dev), 0)
		if errors.Is(err, os.ErrNotExist) {
			return nil // it was removed with its processes
		}
		return err
	}, nil
}
