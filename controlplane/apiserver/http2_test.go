package apiserver

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// http2Conn is a connection on which the test writes frames that no normal client sends.
type http2Conn struct {
	*http2.Framer
	conn    *tls.Conn
	headers bytes.Buffer
	encoder *hpack.Encoder
}

func (p *controlPlane) http2(t *testing.T) *http2Conn {
	t.Helper()
	c := &http2Conn{conn: p.dial(t, "h2")}
	if _, err := c.conn.Write([]byte(http2.ClientPreface)); err != nil {
		t.Fatal(err)
	}
	c.Framer, c.encoder = http2.NewFramer(c.conn, c.conn), hpack.NewEncoder(&c.headers)
	if err := c.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return c
}

// block is the headers of a request, encoded.
func (c *http2Conn) block(path string, more ...string) []byte {
	c.headers.Reset()
	for i, value := range append([]string{"GET", "https", "x", path}, more...) {
		name := fmt.Sprintf("x-%d", i)
		if i < 4 {
			name = []string{":method", ":scheme", ":authority", ":path"}[i]
		}
		_ = c.encoder.WriteField(hpack.HeaderField{Name: name, Value: value}) // into memory
	}
	return bytes.Clone(c.headers.Bytes())
}

// A flood of frames either ends the client's connection or costs nothing: net/http bounds what it keeps of each.
func TestHTTP2Floods(t *testing.T) {
	p := attackedServer(t)
	const watch = "/api/v1/configmaps?watch=1&resourceVersion=0"
	for _, tt := range []struct {
		name  string
		flood func(c *http2Conn, i int) error
		count int
		// ended says that the server must have closed the connection before all was written.
		ended bool
	}{
		{"rapid reset (CVE-2023-44487, CVE-2023-39325)", func(c *http2Conn, i int) error {
			id := uint32(2*i + 1)
			if err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.block(watch), EndStream: true, EndHeaders: true}); err != nil {
				return err
			}
			return c.WriteRSTStream(id, http2.ErrCodeCancel)
		}, 50000, false},
		{"streams that stay", func(c *http2Conn, i int) error {
			return c.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: c.block(watch), EndStream: true, EndHeaders: true})
		}, 3000, false},
		{"continuations (CVE-2023-45288)", func(c *http2Conn, i int) error {
			if i == 0 {
				return c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.block(watch), EndStream: true})
			}
			return c.WriteContinuation(1, false, c.block("/", strings.Repeat("x", 8<<10)))
		}, 100000, true},
		{"settings (CVE-2019-9515)", func(c *http2Conn, _ int) error {
			return c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
		}, 100000, false},
		{"pings (CVE-2019-9512)", func(c *http2Conn, _ int) error { return c.WritePing(false, [8]byte{}) }, 100000, false},
		{"empty frames (CVE-2019-9518)", func(c *http2Conn, i int) error {
			if i == 0 {
				return c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.block(watch), EndHeaders: true})
			}
			return c.WriteData(1, false, nil)
		}, 100000, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			underAttack(t, p, 200<<20, func(context.Context) {
				goroutines := runtime.NumGoroutine()
				c := p.http2(t)
				_ = c.conn.SetWriteDeadline(time.Now().Add(20 * time.Second)) // the server stops reading, when it has to
				var err error
				for i := 0; i < tt.count && err == nil; i++ {
					err = tt.flood(c, i)
				}
				if tt.ended && err == nil {
					t.Error("the connection is still open")
				}
				if more := runtime.NumGoroutine() - goroutines; more > 2000 {
					t.Errorf("the server has %d goroutines more", more)
				}
				c.conn.NetConn().Close()
			})
			waitFor(t, "the watches of the flood to end", func() bool { return p.server.sessions() == 0 })
		})
	}
}

// A request line or headers without an end are refused with HTTP's status codes.
func TestLargeHeaders(t *testing.T) {
	p := attackedServer(t)
	underAttack(t, p, 100<<20, func(context.Context) {
		for _, request := range []string{
			"GET /" + strings.Repeat("a/", 300000) + " HTTP/1.1\r\nHost: x\r\n\r\n",
			"GET /api HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("Impersonate-Group: x\r\n", 30000) + "\r\n",
		} {
			conn := p.dial(t, "http/1.1")
			go func() { _, _ = conn.Write([]byte(request)) }() // the server does not read all of it
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil || response.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
				t.Errorf("%v, %v, want 431", response, err)
			}
			conn.Close()
		}
	})
	// A request that is sent too slowly is ended.
	conn := p.dial(t, "http/1.1")
	if _, err := conn.Write([]byte("GET /api HTTP/1.1\r\nHost")); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection with half a request is still open")
	}
}
