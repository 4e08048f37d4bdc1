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

// keepServer runs a server and starts it again whenever it ends, as systemd would, until it gets SIGTERM. A server that exits by itself the
// first time has been started wrongly: that ends this process too.
func keepServer(config *hostConfig) error {
	runtime.LockOSThread() // the server is killed when the thread that started it ends
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT)
	delay := backoff.New(restartDelayMin, restartDelayMax)
	for first := true; ; first = false {
		server := exec.Command(config.Server[0], config.Server[1:]...)
		server.Stdout, server.Stderr = os.Stdout, os.Stderr
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
		if exit := (*exec.ExitError)(nil); first && !(errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signaled()) {
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
