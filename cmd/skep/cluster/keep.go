package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/backoff"
)

// writeServerConfig writes what keepServer reads.
func writeServerConfig(path, log string, argv []string) error {
	data, err := json.Marshal(hostConfig{Server: argv, Log: log})
	if err != nil {
		return err
	}
	return writeFileAtomically(path, data, 0o600) // a join token may be in it
}

// keepServer runs a server and starts it again whenever it ends, as systemd would, until it gets SIGTERM. A server that exits by itself and has
// never been ready was started wrongly: that ends this process too.
func keepServer(config *hostConfig) error {
	runtime.LockOSThread() // the server is killed when the thread that started it ends
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT)
	notices, err := listenForNotices()
	if err != nil {
		return err
	}
	defer notices.close()
	ready := false
	delay := backoff.New(restartDelayMin, restartDelayMax)
	for {
		server := exec.Command(config.Server[0], config.Server[1:]...)
		server.Stdout, server.Stderr = os.Stdout, os.Stderr
		server.Env = append(os.Environ(), "NOTIFY_SOCKET="+notices.name)
		server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
		started := time.Now()
		if err := server.Start(); err != nil {
			return fmt.Errorf("start %s: %w", config.Server[0], err)
		}
		ended := make(chan error, 1)
		go func() { ended <- server.Wait() }()
		var err error
		select {
		case err = <-ended:
		case <-stop:
			_ = server.Process.Signal(unix.SIGTERM)
			<-ended
			return nil
		}
		ready = ready || notices.ready()
		if exit := (*exec.ExitError)(nil); !ready && !(errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signaled()) {
			return err
		}
		if time.Since(started) > restartDelayReset {
			delay.Reset()
		}
		after := delay.Next()
		slog.Warn("skepd ended", "status", err, "restart", after)
		select {
		case <-time.After(after):
		case <-stop:
			return nil
		}
	}
}

// notices is a socket for what a service tells systemd, by sd_notify(3).
type notices struct {
	socket int
	name   string // as NOTIFY_SOCKET has it
}

// listenForNotices opens a socket that has no file and ends with the process.
func listenForNotices() (*notices, error) {
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket for the server's notifications: %w", err)
	}
	n := &notices{socket, fmt.Sprintf("@skep-keep-%d", os.Getpid())}
	if err := unix.Bind(socket, &unix.SockaddrUnix{Name: n.name}); err != nil {
		n.close()
		return nil, fmt.Errorf("socket for the server's notifications: %w", err)
	}
	return n, nil
}

func (n *notices) close() { unix.Close(n.socket) }

// ready reads what has arrived, and says whether it includes that the service is ready.
func (n *notices) ready() (ready bool) {
	buf := make([]byte, 4096)
	for {
		size, _, err := unix.Recvfrom(n.socket, buf, unix.MSG_DONTWAIT)
		if err != nil {
			return ready // no more, or none
		}
		ready = ready || slices.Contains(strings.Fields(string(buf[:size])), "READY=1")
	}
}
