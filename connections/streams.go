package connections

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Streams serve requests whose handlers may take their connection over, after which the HTTP server no longer checks whether the
// client has left.
type Streams struct {
	// LookEvery is how often the socket is checked for whether the client has closed its end.
	LookEvery time.Duration
	// Idle is the time without data after which a stream ends; zero is never.
	Idle time.Duration
	// Linger is how long the connection stays open after its handler has returned, within which a working client has closed it: if
	// it is closed at once, with unread data of the client, the last data written to the client is lost.
	Linger time.Duration
	// HalfClosed says that clients may end their sending side and still wait for an answer. TLS has that without an end of the
	// connection below it.
	HalfClosed bool
}

// Serve calls handle with a request whose context ends, and whose connection is closed, when the client has left: when a read
// finds the end, or the socket has the end and nothing more is read. The latter is needed since readers of frames stop at one that
// they cannot decode, without closing, and wait while no one consumes frames that they have read.
func (s Streams) Serve(w http.ResponseWriter, r *http.Request, handle http.HandlerFunc) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	taken := &takenWriter{ResponseWriter: w, streams: s, ctx: ctx, cancel: cancel}
	unless := context.AfterFunc(ctx, taken.close)
	handle(taken, r.WithContext(ctx))
	if unless() {
		time.AfterFunc(s.Linger, taken.close)
	}
}

// takenWriter answers a request whose connection may be taken over.
type takenWriter struct {
	http.ResponseWriter
	streams Streams
	ctx     context.Context
	cancel  context.CancelFunc

	mu     sync.Mutex
	conn   net.Conn // nil: not taken over
	closed bool     // conn has been closed, or is to be closed as soon as there is one
}

func (w *takenWriter) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	if w.conn != nil {
		w.conn.Close()
	}
}

// Flush and the deadlines serve net/http's response controller and the proxies. There is no Unwrap: libraries for WebSocket would
// take the connection over from what it returns, and the client would not be watched.
func (w *takenWriter) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }
func (w *takenWriter) SetReadDeadline(at time.Time) error {
	return http.NewResponseController(w.ResponseWriter).SetReadDeadline(at)
}
func (w *takenWriter) SetWriteDeadline(at time.Time) error {
	return http.NewResponseController(w.ResponseWriter).SetWriteDeadline(at)
}

// Hijack implements http.Hijacker.
func (w *takenWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	ahead, err := buffered.Reader.Peek(buffered.Reader.Buffered())
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	watched := &watchedConn{Conn: conn}
	if !w.streams.HalfClosed {
		watched.ended = w.cancel
	}
	w.mu.Lock()
	w.conn = conn
	closed := w.closed
	w.mu.Unlock()
	if closed {
		conn.Close()
	}
	go w.streams.watch(w.ctx, watched, w.cancel)
	reader := bufio.NewReader(io.MultiReader(bytes.NewReader(bytes.Clone(ahead)), watched))
	return watched, bufio.NewReadWriter(reader, bufio.NewWriter(watched)), nil
}

// watch calls cancel when the client has closed its end and nothing was read between two checks, or when the connection was idle
// for too long. It ends with ctx.
func (s Streams) watch(ctx context.Context, conn *watchedConn, cancel func()) {
	raw := rawOf(conn.Conn)
	look := time.NewTicker(s.LookEvery)
	defer look.Stop()
	var read, written uint64
	moved, left := time.Now(), false
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		nowRead, nowWritten := conn.read.Load(), conn.written.Load()
		progress := nowRead != read
		if progress || nowWritten != written {
			moved = time.Now()
		}
		read, written = nowRead, nowWritten
		wasLeft := left
		left = raw != nil && closedByPeer(raw)
		if left && wasLeft && !progress || s.Idle > 0 && time.Since(moved) > s.Idle {
			cancel()
			return
		}
	}
}

// rawOf returns the socket below a connection, or nil if there is none.
func rawOf(conn net.Conn) syscall.RawConn {
	socket, ok := below(conn).(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil // closed already
	}
	return raw
}

// below returns the connection below TLS and other wrappers.
func below(conn net.Conn) net.Conn {
	for {
		over, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return conn
		}
		conn = over.NetConn()
	}
}

// Abort closes a connection by a reset, so that the other side sees it at once even if it reads nothing: an ordinary end would be
// queued behind unread data. A connection that is closed already stays as it is.
func Abort(conn net.Conn) {
	if socket, ok := below(conn).(*net.TCPConn); ok {
		if err := socket.SetLinger(0); err != nil {
			return // closed already
		}
		socket.Close() // first: TLS would send its closing message and wait
	}
	conn.Close()
}

// closedByPeer says whether the other side has ended its sending side, or the connection. Data that it sent before may still be
// unread.
func closedByPeer(raw syscall.RawConn) (closed bool) {
	err := raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		if n, err := unix.Poll(fds, 0); err == nil && n > 0 {
			closed = true
		}
	})
	return closed || err != nil // closed on this side
}

// watchedConn counts the data over a connection.
type watchedConn struct {
	net.Conn
	ended         func() // called when a read fails, or nil
	read, written atomic.Uint64
}

func (c *watchedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read.Add(uint64(n))
	if err != nil && c.ended != nil {
		c.ended()
	}
	return n, err
}

func (c *watchedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.written.Add(uint64(n))
	return n, err
}

// CloseWrite signals the end of data to the client.
func (c *watchedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
