package logs

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// request is a line on the socket; every request is answered by a response.
type request struct {
	Do string `json:"do"` // open, close, version, stop
	ID string `json:"id,omitempty"`
}

type response struct {
	Error   string `json:"error,omitempty"`
	Version string `json:"version,omitempty"`
	PID     int    `json:"pid,omitempty"`
}

func fifoDir(runDir string) string    { return filepath.Join(runDir, "logs") }
func socketPath(runDir string) string { return filepath.Join(runDir, "logs.sock") }
func lockPath(runDir string) string   { return filepath.Join(runDir, "logs.lock") }

// ErrRunning means that another writer has the folder.
var ErrRunning = errors.New("another log writer is running")

// Serve is the writer process: it reads the FIFOs below runDir and executes commands until ctx ends or a command stops
// it. ready is called when it answers commands.
func Serve(ctx context.Context, runDir, version string, log *slog.Logger, ready func()) error {
	if err := os.MkdirAll(fifoDir(runDir), 0o700); err != nil {
		return fmt.Errorf("log writer's folder: %w", err)
	}
	lock, err := os.OpenFile(lockPath(runDir), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("log writer's lock: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("%s: %w", lock.Name(), ErrRunning)
	}
	// This process has the lock, so the earlier writer's socket is unused.
	if err := os.Remove(socketPath(runDir)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("log writer's socket: %w", err)
	}
	listener, err := net.Listen("unix", socketPath(runDir))
	if err != nil {
		return fmt.Errorf("log writer's socket: %w", err)
	}
	defer listener.Close()
	if err := os.Chmod(socketPath(runDir), 0o600); err != nil {
		return fmt.Errorf("log writer's socket: %w", err)
	}
	w, err := NewWriter(fifoDir(runDir), 0, log)
	if err != nil {
		return err
	}
	if err := w.adopt(); err != nil {
		w.close()
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &commands{writer: w, version: version, stop: cancel}
	var serving sync.WaitGroup
	serving.Go(func() { s.accept(ctx, listener) })
	context.AfterFunc(ctx, func() { listener.Close() })
	ready()
	err = w.Run(ctx)
	cancel()
	serving.Wait()
	return err
}

type commands struct {
	writer  *Writer
	version string
	stop    func()
}

func (s *commands) accept(ctx context.Context, listener net.Listener) {
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		conns.Go(func() {
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			s.serve(ctx, conn)
		})
	}
}

func (s *commands) serve(ctx context.Context, conn net.Conn) {
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		var q request
		a := response{Version: s.version, PID: os.Getpid()}
		if err := json.Unmarshal(lines.Bytes(), &q); err != nil {
			a.Error = err.Error()
		} else if err := s.do(ctx, q); err != nil {
			a.Error = err.Error()
		}
		if json.NewEncoder(conn).Encode(a) != nil {
			return
		}
		if q.Do == "stop" {
			s.stop()
			return
		}
	}
}

func (s *commands) do(ctx context.Context, q request) error {
	switch q.Do {
	case "open", "close":
		if !validID(q.ID) {
			return fmt.Errorf("container id %q is not a name", q.ID)
		}
		return s.writer.call(ctx, func() error {
			if q.Do == "open" {
				return s.writer.open(q.ID)
			}
			return s.writer.finishContainer(q.ID)
		})
	case "version", "stop":
		return nil
	}
	return fmt.Errorf("unknown command %q", q.Do)
}

// validID refuses a container ID that would name a path outside the FIFO folder.
func validID(id string) bool { return id != "" && id[0] != '.' && filepath.Base(id) == id }
