package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// How long a removal waits for processes that it has killed. What takes longer is for the next removal.
const (
	killRounds = 20
	killPause  = 5 * time.Millisecond
)

// RemovePod removes the pod's folders in all hierarchies. Processes that are left in them are killed: those of a container whose shim was killed,
// and those that left their container's folder. An error says that some are still there: the pod has not ended.
func (t *Tree) RemovePod(uid string) error {
	var failed []error
	for _, root := range t.hierarchies() {
		for _, path := range t.candidates(uid) {
			failed = append(failed, removeFolder(filepath.Join(root, path)))
		}
	}
	return errors.Join(failed...)
}

// removeFolder removes a cgroup and those below it.
func removeFolder(dir string) error {
	for range killRounds {
		if err := removeBelow(dir); !errors.Is(err, unix.EBUSY) {
			return err
		}
		killBelow(dir)
		time.Sleep(killPause) // the kernel tells nobody on every hierarchy when they have ended
	}
	if err := removeBelow(dir); !errors.Is(err, unix.EBUSY) {
		return err
	}
	return fmt.Errorf("processes %v in cgroup %s do not end though they were killed: are they stuck in the kernel?", processesBelow(dir), dir)
}

// removeBelow removes the folder, those below it first. What is missing is no error.
func removeBelow(dir string) error {
	for _, below := range folders(dir) {
		if err := removeBelow(below); err != nil {
			return err
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}

func folders(dir string) (below []string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // it has been removed
	}
	for _, e := range entries {
		if e.IsDir() {
			below = append(below, filepath.Join(dir, e.Name()))
		}
	}
	return below
}

// processesBelow are the processes in the folder and those below it. One of another namespace of processes has no number here.
func processesBelow(dir string) (pids []int) {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err == nil {
		for line := range bytes.Lines(data) {
			if pid, err := strconv.Atoi(string(bytes.TrimSpace(line))); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
	}
	for _, below := range folders(dir) {
		pids = append(pids, processesBelow(below)...)
	}
	return pids
}

// killBelow kills the processes in the folder and those below it.
func killBelow(dir string) {
	for _, pid := range processesBelow(dir) {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // it has ended
		}
		if slices.Contains(processesBelow(dir), pid) { // it is still the process that was listed
			_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // it has ended, or the folder stays busy
		}
		unix.Close(fd)
	}
}
