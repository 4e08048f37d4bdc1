package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/agent/confine"
	"github.com/skep-io/skep/agent/logs"
	"github.com/skep-io/skep/agent/runtime"
	"github.com/skep-io/skep/dataplane/flow"
	"github.com/skep-io/skep/dataplane/podnet"
	"github.com/skep-io/skep/dataplane/podpath"
	"github.com/skep-io/skep/dataplane/service"
)

// Cleanup removes everything that agents made on this host: pods, their containerd and log processes, interfaces, routes, the
// nftables table, pins, cgroups and folders. It continues after a failure, and may be called again.
func Cleanup(ctx context.Context, cfg Config) error {
	if os.Geteuid() != 0 {
		return errors.New("must be root: run it with sudo")
	}
	if err := os.MkdirAll(cfg.RunDir, 0o711); err != nil {
		return fmt.Errorf("agent's folder: %w", err)
	}
	lock, err := lockHost(cfg.RunDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	failed := []error{
		removePods(ctx, cfg),
		podpath.Remove(pathPins(cfg)), flow.Remove(flowPins(cfg)), service.Remove(cfg.BPFDir),
		podnet.Remove(),
		logs.StopWriter(cfg.RunDir),
		removeCgroups(filepath.Join(cfg.Cgroup, "pods")), removeCgroups(filepath.Join(cfg.Cgroup, "kubepods")), removeEmptyCgroups(cfg.Cgroup),
	}
	if err := errors.Join(failed...); err != nil {
		return err // the folders show the next attempt what remains
	}
	// Shims and runc use these whatever folders a containerd is configured with. Only empty ones are removed.
	for _, dir := range []string{"runc/skep", "runc", "s", ""} {
		_ = os.Remove(filepath.Join("/run/containerd", dir))
	}
	return errors.Join(removeDir(cfg.StateDir), removeDir(cfg.RunDir))
}

// removeDir removes a folder with all that agents and pods left in it; mounts in it are detached and not entered. If the
// folder itself is a disk's mount point, it stays.
func removeDir(dir string) error {
	if err := confine.Empty(dir); err != nil {
		return err
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return nil
}

// noLogs is for a runtime that only removes containers.
type noLogs struct{}

func (noLogs) Open(string, string, int, string, bool) (string, string, error) {
	return "", "", errors.New("no container is started while everything is removed")
}
func (noLogs) Close(string)             {}
func (noLogs) Retain(func(string) bool) {}

// removePods ends every container through containerd, so that its shims end too. A private containerd that does not run is
// started for this, and stopped afterwards.
func removePods(ctx context.Context, cfg Config) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	address := cfg.ContainerdAddress
	daemon := containerdConfig(cfg)
	if address == "" {
		if _, err := os.Stat(daemon.Root); errors.Is(err, fs.ErrNotExist) {
			return nil // none ever ran
		}
		address = daemon.Address()
		started, err := runtime.StartContainerd(ctx, daemon)
		if err != nil {
			return fmt.Errorf("remove pods: %w", err)
		}
		defer func() {
			cancel()
			<-started.Done()
			if err := daemon.Stop(context.WithoutCancel(ctx)); err != nil {
				slog.Error("containerd not stopped", "err", err)
			}
		}()
	}
	r, err := runtime.Connect(ctx, address, runtime.Config{CgroupParent: cfg.Cgroup, StateDir: cfg.StateDir, RunDir: cfg.RunDir, Logs: noLogs{}})
	if err != nil {
		return fmt.Errorf("remove pods: %w", err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		if err := r.Run(ctx); err != nil {
			slog.Error("containerd's events are not followed any more", "err", err)
		}
	})
	var mu sync.Mutex
	var failed []error
	var stops sync.WaitGroup
	for _, c := range r.Containers() {
		if c.State == runtime.Exited {
			continue
		}
		stops.Go(func() {
			if err := r.Stop(ctx, c.ID, 0); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed = append(failed, err)
			}
		})
	}
	stops.Wait()
	for _, uid := range r.PodUIDs() {
		failed = append(failed, r.RemoveSandbox(uid), r.ForgetPod(uid))
	}
	cancel()
	running.Wait()
	return errors.Join(append(failed, r.Close())...)
}

// cgroupRoots are the folders where hierarchies may be mounted.
func cgroupRoots() ([]string, error) {
	const root = "/sys/fs/cgroup"
	roots := []string{root}
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, fmt.Errorf("cgroups: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() {
			roots = append(roots, filepath.Join(root, e.Name()))
		}
	}
	return roots, nil
}

// removeEmptyCgroups removes a folder in every hierarchy unless it has folders or processes of others.
func removeEmptyCgroups(path string) error {
	roots, err := cgroupRoots()
	if err != nil {
		return err
	}
	var failed []error
	for _, r := range roots {
		err := unix.Rmdir(filepath.Join(r, path))
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) {
			failed = append(failed, fmt.Errorf("remove cgroup %s: %w", filepath.Join(r, path), err))
		}
	}
	return errors.Join(failed...)
}

// removeCgroups removes a folder in every hierarchy. Processes in it are killed if the kernel has cgroup.kill.
func removeCgroups(path string) error {
	roots, err := cgroupRoots()
	if err != nil {
		return err
	}
	var failed []error
	for _, r := range roots {
		dir := filepath.Join(r, path)
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		if kill := filepath.Join(dir, "cgroup.kill"); fileExists(kill) {
			failed = append(failed, os.WriteFile(kill, []byte("1"), 0))
		}
		failed = append(failed, removeTree(dir))
	}
	return errors.Join(failed...)
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// removeTree removes cgroup folders from the leaves up, and waits until killed processes have ended.
func removeTree(dir string) error {
	var dirs []string
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil // a folder that is missing needs no removal
	}); err != nil {
		return err
	}
	slices.Reverse(dirs)
	for _, d := range dirs {
		for deadline := time.Now().Add(5 * time.Second); ; {
			err := unix.Rmdir(d)
			if err == nil || errors.Is(err, unix.ENOENT) {
				break
			}
			if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
				return fmt.Errorf("remove cgroup %s: %w", d, err)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	return nil
}
