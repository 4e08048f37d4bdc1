package cgroup

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// What is left of a pod ends with its cgroup: a process whose shim was killed, and one in a folder that the container made. The folders are gone in
// every hierarchy of this host when the removal returns.
func TestRemovePodEndsWhatRunsInIt(t *testing.T) {
	parent := fmt.Sprintf("/skep-cgroup-test-%d", os.Getpid())
	tree := Open(Root, parent)
	path, err := tree.EnsurePod("left", corev1.PodQOSBestEffort, Limits{})
	if err != nil {
		t.Fatalf("make a pod's cgroup (root is needed): %v", err)
	}
	t.Cleanup(func() {
		for _, root := range tree.hierarchies() {
			if err := removeFolder(filepath.Join(root, parent)); err != nil {
				t.Error(err)
			}
		}
	})
	var left []*exec.Cmd
	for _, below := range []string{"container", "container/own"} {
		cmd := exec.Command("sleep", "600")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		left = append(left, cmd)
		for _, root := range tree.hierarchies() {
			dir := filepath.Join(root, path, below)
			if _, err := os.Stat(filepath.Join(root, path)); err != nil {
				continue // EnsurePod makes it where a controller is used
			}
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, cmd.Process.Pid), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	ended := make(chan error, len(left))
	for _, cmd := range left {
		go func() { ended <- cmd.Wait() }()
	}
	if err := tree.RemovePod("left"); err != nil {
		t.Fatal(err)
	}
	for range left {
		var exit *exec.ExitError
		if err := <-ended; !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Errorf("a process in the pod's cgroup ended with %v", err)
		}
	}
	for _, root := range tree.hierarchies() {
		if _, err := os.Stat(filepath.Join(root, path)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", filepath.Join(root, path), err)
		}
	}
}
