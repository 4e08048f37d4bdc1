package logs

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/backoff"
)

// Config says where logs are stored and how their writer is started.
type Config struct {
	StateDir string   // logs: StateDir/pods/UID/logs/CONTAINER/ATTEMPT.log
	RunDir   string   // FIFOs, socket
	Command  []string // starts the writer process; it must call Serve with RunDir, and Ready once that is ready
	Version  string   // a running writer of another version is replaced
	Logger   *slog.Logger
	// Patience is how long a running writer may not answer before it is killed; half a minute when 0.
	Patience time.Duration
}

// Logs is the agent's side: it makes containers' FIFOs and keeps the writer process running.
type Logs struct {
	cfg Config

	mu   sync.Mutex // one command at a time
	conn net.Conn
	in   *bufio.Reader
}

// hiddenPrefix is the prefix of folders whose FIFOs are being made.
const hiddenPrefix = "making-"

// commandTimeout includes the start of a new writer.
const commandTimeout = 10 * time.Second

// New takes over the running writer process, or starts one.
func New(ctx context.Context, cfg Config) (*Logs, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Patience == 0 {
		cfg.Patience = 30 * time.Second
	}
	if err := os.MkdirAll(fifoDir(cfg.RunDir), 0o700); err != nil {
		return nil, fmt.Errorf("log writer's folder: %w", err)
	}
	l := &Logs{cfg: cfg}
	if err := l.ensure(ctx); err != nil {
		return nil, err
	}
	return l, nil
}

// Path is the path of a container's log.
func (l *Logs) Path(podUID, container string, attempt int) string {
	return filepath.Join(l.cfg.StateDir, "pods", podUID, "logs", container, strconv.Itoa(attempt)+".log")
}

// Run keeps a writer process running until ctx ends. The process keeps running for the next agent.
func (l *Logs) Run(ctx context.Context) error {
	start := backoff.Retry{
		First: time.Second, Last: time.Second, Level: slog.LevelError,
		Failing: "log writer does not start: containers' output waits", Working: "log writer started",
	}
	for ctx.Err() == nil {
		if err := l.watch(ctx); err != nil && ctx.Err() == nil {
			l.cfg.Logger.Warn("the log writer ended; starting it again", "err", err)
		}
		if ctx.Err() != nil {
			return nil
		}
		_ = start.Do(ctx, l.ensure) // the loop ends with ctx
	}
	return nil
}

// watch returns when the writer has ended, or was killed because it did not answer: containers that write output would wait for
// it.
func (l *Logs) watch(ctx context.Context) error {
	dialer := net.Dialer{Timeout: commandTimeout}
	conn, err := dialer.DialContext(ctx, "unix", socketPath(l.cfg.RunDir))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	go l.killSilent(ctx, conn)
	_, err = io.Copy(io.Discard, conn)
	return err
}

// ensure returns when a writer of this version answers on the socket; it starts one if necessary.
func (l *Logs) ensure(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	l.disconnect()
	a, err := l.exchange(ctx, request{Do: "version"})
	if err == nil && a.Version == l.cfg.Version {
		return nil
	}
	if err == nil {
		if err := l.retire(ctx, a.PID); err != nil {
			return fmt.Errorf("stop the log writer of version %s: %w", a.Version, err)
		}
	}
	if err := l.spawn(ctx); err != nil {
		return err
	}
	if _, err := l.exchange(ctx, request{Do: "version"}); err != nil {
		return fmt.Errorf("log writer does not answer: %w", err)
	}
	return nil
}

// retire stops a writer and waits until its process has ended. Output meanwhile waits in the FIFOs.
func (l *Logs) retire(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil // ended already
	}
	process := os.NewFile(uintptr(fd), "pidfd")
	defer process.Close()
	if _, err := l.exchange(ctx, request{Do: "stop"}); err != nil {
		return err
	}
	l.disconnect()
	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	return ctx.Err()
}

// spawn starts a writer in a session of its own, so that it does not end with the agent, and waits until it is ready.
func (l *Logs) spawn(ctx context.Context) error {
	ready, report, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	cmd := exec.Command(l.cfg.Command[0], l.cfg.Command[1:]...)
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{report}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	report.Close()
	if err != nil {
		return fmt.Errorf("start the log writer: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // reaps it, whenever that is
	deadline, _ := ctx.Deadline()
	if err := ready.SetReadDeadline(deadline); err != nil {
		return err
	}
	if _, err := io.ReadFull(ready, make([]byte, 1)); err != nil {
		select {
		case err = <-ended:
		default:
		}
		return fmt.Errorf("the log writer did not become ready: %w", err)
	}
	return nil
}

// Ready reports to the process that started this one that Serve answers commands. It does nothing in a process started by hand.
func Ready() {
	const readyFD = 3 // the first of exec.Cmd.ExtraFiles
	var st unix.Stat_t
	if unix.Fstat(readyFD, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return
	}
	_, _ = unix.Write(readyFD, []byte{1}) // if this fails, the other process no longer waits
	unix.Close(readyFD)
}

// Open makes a container's FIFOs and has the writer read them. They are removed with Close, or when all processes that have
// them open for writing have closed them. With live set, output is in the log as soon as it is written, unfinished lines too: a
// user may be typing.
func (l *Logs) Open(podUID, container string, attempt int, containerID string, live bool) (stdout, stderr string, err error) {
	if !validID(containerID) || !validID(podUID) || !validID(container) {
		return "", "", fmt.Errorf("cannot name a log for container %q (%s) of pod %q", container, containerID, podUID)
	}
	dir := filepath.Join(fifoDir(l.cfg.RunDir), containerID)
	// The folder is made complete before it gets its name: a writer that starts meanwhile finds all of it or nothing.
	hidden := filepath.Join(l.cfg.RunDir, hiddenPrefix+containerID)
	if err := os.MkdirAll(hidden, 0o700); err != nil {
		return "", "", fmt.Errorf("container's FIFOs: %w", err)
	}
	defer os.RemoveAll(hidden)
	if err := os.WriteFile(filepath.Join(hidden, "log"), []byte(l.Path(podUID, container, attempt)), 0o600); err != nil {
		return "", "", fmt.Errorf("container's FIFOs: %w", err)
	}
	if live {
		if err := os.WriteFile(filepath.Join(hidden, liveMark), nil, 0o600); err != nil {
			return "", "", fmt.Errorf("container's FIFOs: %w", err)
		}
	}
	for _, stream := range []string{Stdout, Stderr} {
		if err := unix.Mkfifo(filepath.Join(hidden, stream), 0o600); err != nil && !errors.Is(err, unix.EEXIST) {
			return "", "", fmt.Errorf("container's FIFOs: %w", err)
		}
	}
	if err := os.Rename(hidden, dir); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
		return "", "", fmt.Errorf("container's FIFOs: %w", err)
	}
	if err := l.command(request{Do: "open", ID: containerID}); err != nil {
		return "", "", err
	}
	return filepath.Join(dir, Stdout), filepath.Join(dir, Stderr), nil
}

// Close ends a container's log once its task was deleted: what is still in the FIFOs is written.
func (l *Logs) Close(containerID string) {
	if err := l.command(request{Do: "close", ID: containerID}); err != nil {
		l.cfg.Logger.Error("container's log not closed", "container", containerID, "err", err)
	}
}

// Retain closes the logs of all containers except those for which keep is true: logs left by an agent that ended between making
// the FIFOs and the container, or between the container's end and Close. It must not run concurrently with Open.
func (l *Logs) Retain(keep func(containerID string) bool) {
	half, _ := filepath.Glob(filepath.Join(l.cfg.RunDir, hiddenPrefix+"*"))
	for _, dir := range half {
		if err := os.RemoveAll(dir); err != nil {
			l.cfg.Logger.Error("half-made FIFOs stay", "folder", dir, "err", err)
		}
	}
	entries, err := os.ReadDir(fifoDir(l.cfg.RunDir))
	if err != nil {
		l.cfg.Logger.Error("FIFOs of removed containers not deleted", "err", err)
		return
	}
	for _, e := range entries {
		if !keep(e.Name()) {
			l.Close(e.Name())
		}
	}
}

// command sends a command to the writer, again if that is being restarted.
func (l *Logs) command(q request) error {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	for {
		l.mu.Lock()
		a, err := l.exchange(ctx, q)
		l.mu.Unlock()
		if err == nil {
			if a.Error != "" {
				return fmt.Errorf("log writer: %s", a.Error)
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("log writer does not answer: %w", err)
		case <-time.After(20 * time.Millisecond): // Run starts it again
		}
	}
}

// exchange sends a request and reads its answer; l.mu is held.
func (l *Logs) exchange(ctx context.Context, q request) (a response, err error) {
	if l.conn == nil {
		var d net.Dialer
		if l.conn, err = d.DialContext(ctx, "unix", socketPath(l.cfg.RunDir)); err != nil {
			l.conn = nil
			return a, err
		}
		l.in = bufio.NewReader(l.conn)
	}
	defer func() {
		if err != nil {
			l.disconnect()
		}
	}()
	deadline, _ := ctx.Deadline()
	if err := l.conn.SetDeadline(deadline); err != nil {
		return a, err
	}
	if err := json.NewEncoder(l.conn).Encode(q); err != nil {
		return a, err
	}
	line, err := l.in.ReadBytes('\n')
	if err != nil {
		return a, err
	}
	return a, json.Unmarshal(line, &a)
}

func (l *Logs) disconnect() {
	if l.conn != nil {
		l.conn.Close()
		l.conn = nil
	}
}

// StopWriter ends the writer process below runDir, if one runs.
func StopWriter(runDir string) error {
	l := &Logs{cfg: Config{RunDir: runDir}}
	defer l.disconnect()
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	a, err := l.exchange(ctx, request{Do: "version"})
	if err != nil {
		return nil // none
	}
	return l.retire(ctx, a.PID)
}
