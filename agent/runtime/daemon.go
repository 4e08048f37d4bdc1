package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/backoff"
	"github.com/skep-io/skep/durable"
)

// DaemonConfig configures a private containerd.
type DaemonConfig struct {
	Binary string // looked up in PATH when empty
	Root   string // persistent: content, metadata, snapshots
	State  string // lost at reboot: bundles, the socket
	// CgroupDir is the absolute cgroup v2 folder that the daemon is started in; if empty, the agent's.
	CgroupDir string
	// Patience is how long a running daemon may not answer before it is killed and started again; a minute when 0. Containers
	// are not affected.
	Patience time.Duration
}

// Address is the daemon's socket.
func (c DaemonConfig) Address() string { return filepath.Join(c.State, "containerd.sock") }

func (c DaemonConfig) pidFile() string    { return filepath.Join(c.State, "containerd.pid") }
func (c DaemonConfig) logFile() string    { return filepath.Join(c.Root, "containerd.log") }
func (c DaemonConfig) configFile() string { return filepath.Join(c.State, "config.toml") }

// Daemon is a private containerd that outlives the agent: it keeps running when it is no longer watched, and the next agent
// adopts it by its socket.
type Daemon struct {
	cfg   DaemonConfig
	pid   int
	child *exec.Cmd // nil when adopted
	done  chan struct{}
}

// StartContainerd returns a private containerd that answers: one that an earlier agent started, or a new one. Until ctx ends
// it is started again whenever it ends.
func StartContainerd(ctx context.Context, cfg DaemonConfig) (*Daemon, error) {
	d := &Daemon{cfg: cfg, done: make(chan struct{})}
	if err := d.ensure(ctx); err != nil {
		return nil, err
	}
	go d.keep(ctx)
	return d, nil
}

// Address is the socket to connect to.
func (d *Daemon) Address() string { return d.cfg.Address() }

// Done is closed when the daemon is no longer watched (ctx ended).
func (d *Daemon) Done() <-chan struct{} { return d.done }

// Stop ends the daemon of this configuration, if one runs, and waits for that. Containers and their shims keep running.
func (c DaemonConfig) Stop(ctx context.Context) error {
	pid, fd := c.running()
	if pid == 0 {
		return nil
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0); err != nil {
		return nil
	}
	if waitPidfd(ctx, fd) == nil {
		return nil
	}
	return unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
}

func (d *Daemon) ensure(ctx context.Context) error {
	if pid, fd := d.cfg.running(); pid != 0 {
		defer unix.Close(fd)
		wait, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if err := serving(wait, d.cfg.Address()); err == nil {
			d.pid, d.child = pid, nil
			return nil
		}
		slog.Warn("containerd runs but does not answer; starting another", "pid", pid, "socket", d.cfg.Address())
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	}
	return d.start(ctx)
}

func (d *Daemon) start(ctx context.Context) error {
	binary := d.cfg.Binary
	if binary == "" {
		var err error
		if binary, err = exec.LookPath("containerd"); err != nil {
			return errors.New("containerd is not in PATH: install containerd (1.6 or later), or name a running one with --containerd-address")
		}
	}
	for _, dir := range []string{d.cfg.Root, d.cfg.State} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("containerd folder: %w", err)
		}
	}
	if err := durable.Replace(d.cfg.configFile(), []byte(daemonConfig(d.cfg)), 0o600, false); err != nil {
		return fmt.Errorf("containerd configuration: %w", err)
	}
	_ = os.Remove(d.cfg.Address())
	logPath := d.cfg.logFile()
	// Appending, so that the file can be emptied under the daemon.
	logFile, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("containerd log: %w", err)
	}
	defer logFile.Close()

	cmd := exec.Command(binary, "--config", d.cfg.configFile())
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if d.cfg.CgroupDir != "" {
		if err := os.MkdirAll(d.cfg.CgroupDir, 0o755); err != nil {
			return fmt.Errorf("cgroup for containerd: %w", err)
		}
		dir, err := os.Open(d.cfg.CgroupDir)
		if err != nil {
			return fmt.Errorf("cgroup for containerd: %w", err)
		}
		defer dir.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", binary, err)
	}
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	// The pid file is written before the daemon answers: if the agent is killed here, the next one still recognises the
	// daemon.
	if err := durable.Replace(d.cfg.pidFile(), []byte(strconv.Itoa(cmd.Process.Pid)), 0o644, false); err != nil {
		return fmt.Errorf("containerd pid file: %w", err)
	}
	wait, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	go func() {
		select {
		case <-exited:
			cancel()
		case <-wait.Done():
		}
	}()
	if err := serving(wait, d.cfg.Address()); err != nil {
		return fmt.Errorf("containerd (pid %d) does not answer on %s: %w; see %s", cmd.Process.Pid, d.cfg.Address(), err, logPath)
	}
	d.pid, d.child = cmd.Process.Pid, cmd
	return nil
}

// keep waits until the daemon ends and starts it again.
func (d *Daemon) keep(ctx context.Context) {
	defer close(d.done)
	for ctx.Err() == nil {
		if fd, err := unix.PidfdOpen(d.pid, 0); err == nil {
			tending, stop := context.WithCancel(ctx)
			var tended sync.WaitGroup
			tended.Go(func() { d.tend(tending, fd) })
			err = waitPidfd(ctx, fd)
			stop()
			tended.Wait()
			unix.Close(fd)
			if err != nil {
				return
			}
		}
		slog.Warn("containerd died; starting it again", "pid", d.pid)
		start := backoff.Retry{First: 50 * time.Millisecond, Last: 10 * time.Second, Failing: "containerd does not start", Level: slog.LevelError}
		if start.Do(ctx, d.ensure) != nil {
			return
		}
		slog.Info("containerd answers again", "pid", d.pid)
	}
}

// running is the process named by the pid file, with its descriptor, if it still is this daemon: the command line of a process
// with a recycled pid does not have our configuration file's name, and the descriptor, opened first, stays that process's. The
// pid is 0 if it is not.
func (c DaemonConfig) running() (pid, fd int) {
	data, err := os.ReadFile(c.pidFile())
	if err != nil {
		return 0, -1
	}
	pid, err = strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 {
		return 0, -1
	}
	if fd, err = unix.PidfdOpen(pid, 0); err != nil {
		return 0, -1
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !strings.Contains(string(cmdline), c.configFile()) || unix.PidfdSendSignal(fd, 0, nil, 0) != nil {
		unix.Close(fd)
		return 0, -1
	}
	return pid, fd
}

// waitPidfd returns nil when the process has ended, or ctx's error.
func waitPidfd(ctx context.Context, fd int) error {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(wake)
	stop := make(chan struct{})
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		select {
		case <-ctx.Done():
			_, _ = unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		case <-stop:
		}
	}()
	defer func() { close(stop); <-finished }()
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(wake), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case fds[0].Revents != 0:
			return nil
		default:
			return ctx.Err()
		}
	}
}

// serving returns when containerd answers at address.
func serving(ctx context.Context, address string) error {
	client, err := containerd.New(address, containerd.WithTimeout(100*time.Millisecond))
	if err != nil {
		return err
	}
	defer client.Close()
	var last error
	for {
		ok, err := client.IsServing(ctx)
		if err == nil && ok {
			return nil
		}
		if err != nil {
			last = err
		}
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), last)
		}
	}
}

// unneeded are plugins that the agent never uses, by their names in containerd 1.6 and in 2.x; a version ignores unknown
// names.
var unneeded = []string{
	"io.containerd.grpc.v1.cri",
	"io.containerd.cri.v1.images",
	"io.containerd.cri.v1.runtime",
	"io.containerd.podsandbox.controller.v1.podsandbox",
	"io.containerd.sandbox.controller.v1.podsandbox",
	"io.containerd.nri.v1.nri",
	"io.containerd.internal.v1.opt",
	"io.containerd.internal.v1.restart",
	"io.containerd.internal.v1.tracing",
	"io.containerd.tracing.processor.v1.otlp",
	"io.containerd.monitor.v1.cgroups",
	"io.containerd.monitor.task.v1.cgroups",
	"io.containerd.snapshotter.v1.aufs",
	"io.containerd.snapshotter.v1.btrfs",
	"io.containerd.snapshotter.v1.devmapper",
	"io.containerd.snapshotter.v1.zfs",
	"io.containerd.snapshotter.v1.blockfile",
	"io.containerd.snapshotter.v1.erofs",
}

func daemonConfig(c DaemonConfig) string {
	var b strings.Builder
	fmt.Fprintf(&b, "version = 2\nroot = %q\nstate = %q\noom_score = %d\n", c.Root, c.State, clampOOMScore(-999))
	b.WriteString("disabled_plugins = [")
	for i, p := range unneeded {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%q", p)
	}
	b.WriteString("]\n")
	fmt.Fprintf(&b, "[grpc]\n  address = %q\n", c.Address())
	// A separate ttrpc socket: the default is in /run/containerd and would be shared with a system containerd.
	fmt.Fprintf(&b, "[ttrpc]\n  address = %q\n", c.Address()+".ttrpc")
	b.WriteString("[debug]\n  level = \"warn\"\n")
	return b.String()
}
