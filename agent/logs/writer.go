package logs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// holdPartial is how long an unfinished line waits for its end before it is written as a partial record, so that a prompt
// without a newline is seen.
const holdPartial = 100 * time.Millisecond

// liveMark is a file in a container's folder that says that unfinished lines are not held.
const liveMark = "live"

const (
	readSize  = 64 << 10  // a FIFO's capacity
	flushSize = 256 << 10 // records gathered before they are written
)

// Writer reads the FIFOs of all containers on a node and writes their log files. One goroutine serves all: it uses one
// buffer, and at most maxLine for each stream with an unfinished line.
//
// The shim holds each FIFO open for reading too. While no writer runs, output waits in the FIFO and then in the container's
// write call; a killed writer loses at most what it has read and not written yet: one read of each stream, and the unfinished
// line that it holds for holdPartial. A container that ends while no writer runs loses what is in its FIFOs.
type Writer struct {
	dir     string // a folder for each container: its FIFOs and the file "log" with its log's path
	maxSize int64
	log     *slog.Logger

	epoll, wake int
	mu          sync.Mutex
	requests    []func() // run by the loop

	containers map[string]*container
	streams    map[int32]*stream // by file descriptor
	held       map[*stream]bool  // streams with an unfinished line
	buf, out   []byte
	failing    bool // the last write failed and was reported
}

type container struct {
	id      string
	live    bool
	file    *file
	streams []*stream
}

type stream struct {
	framer
	fd        int
	container *container
}

// NewWriter prepares a writer for the FIFOs below dir; maxSize 0 is MaxFileSize.
func NewWriter(dir string, maxSize int64, log *slog.Logger) (*Writer, error) {
	if maxSize == 0 {
		maxSize = MaxFileSize
	}
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(epoll)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	w := &Writer{
		dir: dir, maxSize: maxSize, log: log, epoll: epoll, wake: wake,
		containers: map[string]*container{}, streams: map[int32]*stream{}, held: map[*stream]bool{},
		buf: make([]byte, readSize), out: make([]byte, 0, readSize),
	}
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, wake, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(wake)}); err != nil {
		w.close()
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return w, nil
}

func (w *Writer) close() {
	unix.Close(w.epoll)
	unix.Close(w.wake)
}

// adopt opens the FIFOs of the containers that are there. It runs before the writer reports that it is ready: after that a
// container may end, and output in a FIFO that is not open then is lost.
func (w *Writer) adopt() error {
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		return fmt.Errorf("scan for containers: %w", err)
	}
	for _, e := range entries {
		if err := w.open(e.Name()); err != nil {
			w.log.Error("container's output is not read", "container", e.Name(), "err", err)
		}
	}
	return nil
}

// Run copies until ctx ends. What it has read is then written; later output waits in the FIFOs for the next writer.
func (w *Writer) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { w.post(func() {}) })
	defer stop()
	defer w.close()
	events := make([]unix.EpollEvent, 64)
	for ctx.Err() == nil {
		timeout := -1
		if len(w.held) > 0 {
			timeout = int(holdPartial / time.Millisecond / 2)
		}
		n, err := unix.EpollWait(w.epoll, events, timeout)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for output: %w", err)
		}
		for _, e := range events[:max(n, 0)] {
			if s := w.streams[e.Fd]; s != nil {
				w.read(s)
			}
		}
		w.runRequests()
		w.flushHeld(time.Now(), holdPartial)
	}
	w.flushHeld(time.Now(), 0)
	for _, c := range w.containers {
		for _, s := range c.streams {
			w.forget(s)
		}
		c.file.f.Close()
	}
	return nil
}

// post has the loop run f.
func (w *Writer) post(f func()) {
	w.mu.Lock()
	w.requests = append(w.requests, f)
	w.mu.Unlock()
	// Fails only if the counter is about to overflow, and then the loop is awake anyway.
	_, _ = unix.Write(w.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

// call has the loop run f and returns its result.
func (w *Writer) call(ctx context.Context, f func() error) error {
	answer := make(chan error, 1)
	w.post(func() { answer <- f() })
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *Writer) runRequests() {
	w.mu.Lock()
	requests := w.requests
	w.requests = nil
	w.mu.Unlock()
	if len(requests) == 0 {
		return
	}
	var count [8]byte
	_, _ = unix.Read(w.wake, count[:])
	for _, f := range requests {
		f()
	}
}

// open starts to read a container's FIFOs; it is no error if they already are being read.
func (w *Writer) open(id string) error {
	if w.containers[id] != nil {
		return nil
	}
	dir := filepath.Join(w.dir, id)
	path, err := os.ReadFile(filepath.Join(dir, "log"))
	if err != nil {
		return fmt.Errorf("where to write the output of container %s: %w", id, err)
	}
	f, err := openFile(strings.TrimSpace(string(path)), w.maxSize)
	if err != nil {
		return err
	}
	c := &container{id: id, file: f}
	if _, err := os.Stat(filepath.Join(dir, liveMark)); err == nil {
		c.live = true
	}
	for _, name := range []string{Stdout, Stderr} {
		fd, err := unix.Open(filepath.Join(dir, name), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == nil {
			s := &stream{framer: framer{stream: name}, fd: fd, container: c}
			c.streams = append(c.streams, s)
			w.streams[int32(fd)] = s
			err = unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
		}
		if err != nil {
			for _, s := range c.streams {
				w.forget(s)
			}
			f.f.Close()
			return fmt.Errorf("open %s of container %s: %w", name, id, err)
		}
	}
	w.containers[id] = c
	return nil
}

// read copies one buffer of a stream, so that a busy container does not delay others.
func (w *Writer) read(s *stream) (more bool) {
	n, err := unix.Read(s.fd, w.buf)
	if err != nil {
		return errors.Is(err, unix.EINTR)
	}
	if n == 0 {
		w.ended(s)
		return false
	}
	now := time.Now()
	stamp := now.UTC().AppendFormat(nil, timeFormat)
	data := w.buf[:n]
	for len(data) > 0 {
		step := data[:min(len(data), 4<<10)]
		data = data[len(step):]
		w.out = s.frame(w.out, now, stamp, step)
		if len(w.out) > flushSize {
			w.write(s.container)
		}
	}
	if s.container.live {
		w.out = s.flush(w.out, stamp)
	}
	w.write(s.container)
	if s.held != nil {
		w.held[s] = true
	}
	return true
}

// write appends the gathered records to the container's file. Output that cannot be stored is dropped: a full disk must not
// stop the containers.
func (w *Writer) write(c *container) {
	err := c.file.write(w.out)
	w.out = w.out[:0]
	if cap(w.out) > 2*flushSize {
		w.out = make([]byte, 0, readSize)
	}
	if err != nil && !w.failing {
		w.log.Error("container output is being dropped", "container", c.id, "err", err)
	}
	w.failing = err != nil
}

func (w *Writer) flushHeld(now time.Time, age time.Duration) {
	for s := range w.held {
		if s.held != nil && now.Sub(s.heldFor) < age {
			continue
		}
		w.out = s.flush(w.out, now.UTC().AppendFormat(nil, timeFormat))
		w.write(s.container)
		delete(w.held, s)
	}
}

// ended is called when a stream's last writer has closed it; with the last stream the container's log is sealed.
func (w *Writer) ended(s *stream) {
	w.flushStream(s)
	w.forget(s)
	c := s.container
	for _, other := range c.streams {
		if other.fd >= 0 {
			return
		}
	}
	w.finish(c)
}

func (w *Writer) flushStream(s *stream) {
	w.out = s.flush(w.out, time.Now().UTC().AppendFormat(nil, timeFormat))
	w.write(s.container)
	delete(w.held, s)
}

func (w *Writer) forget(s *stream) {
	if s.fd >= 0 {
		delete(w.streams, int32(s.fd))
		unix.Close(s.fd) // also removes it from the epoll set
		s.fd = -1
	}
}

// finishContainer ends a container's log: what its FIFOs still hold is written first.
func (w *Writer) finishContainer(id string) error {
	if _, err := os.Stat(filepath.Join(w.dir, id)); errors.Is(err, fs.ErrNotExist) {
		return nil // ended already
	}
	if err := w.open(id); err != nil { // not open if it could not be opened at the writer's start
		return errors.Join(err, os.RemoveAll(filepath.Join(w.dir, id)))
	}
	c := w.containers[id]
	for _, s := range c.streams {
		// A FIFO is drained with the second read; the bound is for a process that still writes although the container has
		// ended.
		for range 32 {
			if s.fd < 0 || !w.read(s) {
				break
			}
		}
	}
	if w.containers[id] != nil { // else reading reached the end of all streams
		for _, s := range c.streams {
			w.flushStream(s)
			w.forget(s)
		}
		w.finish(c)
	}
	return nil
}

func (w *Writer) finish(c *container) {
	delete(w.containers, c.id)
	if err := c.file.seal(); err != nil {
		w.log.Error("a reader that follows will not see the end", "container", c.id, "err", err)
	}
	if err := os.RemoveAll(filepath.Join(w.dir, c.id)); err != nil {
		w.log.Error("container's FIFOs stay", "container", c.id, "err", err)
	}
}
