package sandbox

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const prefix = "skep-test-"

// place is what a sandbox has that outlives a killed process: a cgroup, and the folder that temporary files are mounted on.
// Its owner holds a lock on the cgroup's folder.
type place struct {
	cgroup, files string
	lock          *os.File
}

// tests is the cgroup of the tests; others may be beside it.
func (p *place) tests() string { return filepath.Join(p.cgroup, "tests") }

// makePlace also removes the places without an owner.
func makePlace(root string) (*place, error) {
	if err := sweep(root); err != nil {
		return nil, err
	}
	for {
		files, err := os.MkdirTemp("", prefix)
		if err != nil {
			return nil, err
		}
		p := &place{cgroup: filepath.Join(root, filepath.Base(files)), files: files}
		if err := os.Mkdir(p.cgroup, 0o755); err != nil {
			return nil, errors.Join(err, os.Remove(files))
		}
		owned, err := p.own()
		if err == nil && !owned {
			continue // another process swept it before it was locked
		}
		return p, errors.Join(err, os.Mkdir(p.tests(), 0o755))
	}
}

// own locks the place. False if another process has it, or the cgroup was removed.
func (p *place) own() (bool, error) {
	folder, err := os.Open(p.cgroup)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	err = unix.Flock(int(folder.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		_, err = os.Stat(p.cgroup)
	}
	if err != nil {
		folder.Close()
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, os.ErrNotExist) {
			return false, nil
		}
		return false, fmt.Errorf("lock %s: %w", p.cgroup, err)
	}
	p.lock = folder
	return true, nil
}

// remove ends the processes in the place and removes it.
func (p *place) remove() error {
	defer p.lock.Close()
	kill := filepath.Join(p.cgroup, "cgroup.kill")
	if err := os.WriteFile(kill, []byte("1"), 0); err != nil {
		return err
	}
	if err := awaitEmpty(p.cgroup); err != nil {
		return err
	}
	return errors.Join(removeCgroups(p.cgroup), os.RemoveAll(p.files))
}

// awaitEmpty returns when the cgroup has no processes.
func awaitEmpty(cgroup string) error {
	events, err := os.Open(filepath.Join(cgroup, "cgroup.events"))
	if err != nil {
		return err
	}
	defer events.Close()
	for {
		content := make([]byte, 256)
		n, err := events.ReadAt(content, 0)
		if n == 0 {
			return fmt.Errorf("read %s: %w", events.Name(), err)
		}
		if strings.Contains(string(content[:n]), "populated 0") {
			return nil
		}
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}}, -1); err != nil && err != unix.EINTR {
			return err
		}
	}
}

// removeCgroups removes a folder and those below, whose processes have ended.
func removeCgroups(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeCgroups(filepath.Join(path, entry.Name())); err != nil {
				return err
			}
		}
	}
	return os.Remove(path)
}

// sweep removes the places whose processes were killed.
func sweep(root string) error {
	left, err := filepath.Glob(filepath.Join(root, prefix+"*"))
	if err != nil {
		return err
	}
	for _, cgroup := range left {
		p := &place{cgroup: cgroup, files: filepath.Join(os.TempDir(), filepath.Base(cgroup))}
		owned, err := p.own()
		if owned {
			err = p.remove()
		}
		if err != nil {
			return fmt.Errorf("clean up after a killed test: %w", err)
		}
	}
	return nil
}

func cgroupRoot() (string, error) {
	mounts, err := os.Open("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	defer mounts.Close()
	for scan := bufio.NewScanner(mounts); scan.Scan(); {
		if fields := strings.Fields(scan.Text()); len(fields) > 2 && fields[2] == "cgroup2" {
			return fields[1], nil
		}
	}
	return "", errors.New("no cgroup v2 hierarchy is mounted: mount -t cgroup2 none /sys/fs/cgroup/unified")
}
