package install

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stopPatience is systemd's TimeoutStopSec, startPatience its TimeoutStartSec.
const (
	stopPatience  = 90 * time.Second
	startPatience = 90 * time.Second
)

// service is a started unit: a process that is started again when it ends,
// until the service is stopped.
type service struct {
	unit    *unit
	cgroup  string // absolute
	log     string
	stop    context.CancelFunc
	ended   chan struct{} // closed when nothing will start it again
	mu      sync.Mutex
	pid     int // of the main process, 0 between two
	started bool
}

// startService returns when the process has said READY=1.
func startService(u *unit, cgroup, log string) (*service, error) {
	ctx, stop := context.WithCancel(context.Background())
	s := &service{unit: u, cgroup: cgroup, log: log, stop: stop, ended: make(chan struct{})}
	first := make(chan error, 1)
	go s.run(ctx, first)
	return s, <-first
}

func (s *service) run(ctx context.Context, first chan<- error) {
	defer close(s.ended)
	report := func(err error) {
		select {
		case first <- err:
		default: // whoever started it has left: only the first outcome is theirs
		}
	}
	for {
		if err := s.once(ctx, func() { report(nil) }); err != nil {
			report(err)
		}
		if ctx.Err() != nil || !s.unit.restart {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(s.unit.restartDelay):
		}
	}
}

// once runs the process from its start to its end.
func (s *service) once(ctx context.Context, ready func()) error {
	notify, address, err := listenNotify(s.unit.name)
	if err != nil {
		return err
	}
	defer notify.Close()
	cmd, err := s.launch(address)
	if err != nil {
		return err
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	isReady := make(chan struct{})
	go func() {
		if awaitReady(notify, cmd.Process.Pid) == nil {
			close(isReady)
		}
	}()
	late := time.NewTimer(startPatience)
	defer late.Stop()
	for {
		select {
		case <-isReady:
			isReady = nil
			late.Stop()
			s.set(cmd.Process.Pid, true)
			ready()
		case err := <-exited:
			s.set(0, false)
			s.endRest()
			return fmt.Errorf("%s ended: %v; the end of its log:\n%s", s.unit.name, err, lastLines(s.log, 10))
		case <-late.C:
			_ = cmd.Process.Signal(syscall.SIGKILL)
		case <-ctx.Done():
			s.terminate(cmd.Process, exited)
			s.set(0, false)
			s.endRest()
			return ctx.Err()
		}
	}
}

func (s *service) set(pid int, started bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pid, s.started = pid, started
}

// active says what `systemctl is-active` does.
func (s *service) active() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.started
}

func (s *service) launch(notify string) (*exec.Cmd, error) {
	env, err := s.unit.environment()
	if err != nil {
		return nil, err
	}
	argv, err := s.unit.command(env)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.cgroup, 0o755); err != nil {
		return nil, err
	}
	cgroup, err := os.Open(s.cgroup)
	if err != nil {
		return nil, err
	}
	defer cgroup.Close()
	log, err := os.OpenFile(s.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	if len(s.unit.privileges) > 0 {
		argv = append(append(append([]string{"setpriv"}, s.unit.privileges...), "--"), argv...)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = "/", append(env, "NOTIFY_SOCKET="+notify)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", s.unit.name, err)
	}
	if err := limitOpenFiles(cmd.Process.Pid, s.unit.openFiles); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: LimitNOFILE: %w", s.unit.name, err), cmd.Process.Kill(), cmd.Wait())
	}
	return cmd, nil
}

// limitOpenFiles stays below the machine's hard limit, which not every root may raise.
func limitOpenFiles(pid int, limit uint64) error {
	var now unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &now); err != nil || limit == 0 {
		return err
	}
	now.Cur = min(limit, now.Max)
	return unix.Prlimit(pid, unix.RLIMIT_NOFILE, &now, nil)
}

// terminate sends SIGTERM to the main process, or to all of the service's, and SIGKILL after a while.
func (s *service) terminate(main *os.Process, exited <-chan error) {
	_ = main.Signal(syscall.SIGTERM)
	if s.unit.killMode == "control-group" {
		for _, pid := range s.members() {
			_ = unix.Kill(pid, unix.SIGTERM)
		}
	}
	select {
	case <-exited:
	case <-time.After(stopPatience):
		_ = main.Signal(syscall.SIGKILL)
		<-exited
	}
}

// endRest ends the main process's remaining children, unless the unit keeps them.
func (s *service) endRest() {
	if s.unit.killMode == "process" {
		return
	}
	// Not with cgroup.kill: Linux 6.18 kills what is cloned into such a cgroup later, too.
	for _, pid := range s.members() {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}

func (s *service) members() []int {
	data, err := os.ReadFile(filepath.Join(s.cgroup, "cgroup.procs"))
	if err != nil {
		return nil
	}
	var pids []int
	for _, field := range strings.Fields(string(data)) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// listenNotify makes a socket for sd_notify(3) that reports the sender.
func listenNotify(name string) (*net.UnixConn, string, error) {
	address := filepath.Join(standInDir, name+".notify")
	_ = os.Remove(address)
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		return nil, "", err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, "", err
	}
	var set error
	err = raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
	return conn, address, errors.Join(err, set)
}

// awaitReady returns when the main process has said READY=1. Its children have
// the socket too (containerd uses it), but systemd listens to the main process alone.
func awaitReady(conn *net.UnixConn, main int) error {
	data, control := make([]byte, 4096), make([]byte, 512)
	for {
		n, controlled, _, _, err := conn.ReadMsgUnix(data, control)
		if err != nil {
			return err
		}
		messages, err := unix.ParseSocketControlMessage(control[:controlled])
		if err != nil || len(messages) == 0 {
			continue
		}
		sender, err := unix.ParseUnixCredentials(&messages[0])
		if err != nil || int(sender.Pid) != main {
			continue
		}
		for _, line := range strings.Split(string(data[:n]), "\n") {
			if line == "READY=1" {
				return nil
			}
		}
	}
}

func lastLines(path string, count int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-count):], "\n")
}
