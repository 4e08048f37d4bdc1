package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync/atomic"
)

// server answers with its own name on every protocol.
type server struct {
	id    identity
	ready atomic.Bool
	live  atomic.Bool
}

func serve(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	httpAddr := flags.String("http", ":8080", "HTTP address")
	rawAddr := flags.String("raw", ":7000", "plain TCP and UDP address")
	unready := flags.Bool("unready", false, "start with /ready failing")
	if err := flags.Parse(args); err != nil {
		return err
	}
	s := &server{id: self()}
	s.ready.Store(!*unready)
	s.live.Store(true)

	web, err := net.Listen("tcp", *httpAddr)
	if err != nil {
		return err
	}
	tcp, err := net.Listen("tcp", *rawAddr)
	if err != nil {
		return err
	}
	udp, err := net.ListenPacket("udp", *rawAddr)
	if err != nil {
		return err
	}
	fmt.Printf("%s: HTTP on %s, TCP and UDP on %s\n", s.id, web.Addr(), tcp.Addr())

	failed := make(chan error, 3)
	go func() { failed <- (&http.Server{Handler: s.handler()}).Serve(web) }()
	go func() { failed <- s.serveTCP(tcp) }()
	go func() { failed <- s.serveUDP(udp) }()
	select {
	case <-ctx.Done():
		fmt.Println("ending on signal")
		return nil
	case err := <-failed:
		return err
	}
}

// handler's paths: / says which pod answers; /env lists the environment; /ready and
// /live answer probes, and a POST of "on" or "off" switches them; /exit?code=N
// ends the process; /bytes?n=N sends N bytes; /headers returns the request's.
func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close") // a new connection, so a new choice, per request
		fmt.Fprintf(w, "%s client=%s\n", s.id, r.RemoteAddr)
	})
	mux.HandleFunc("/env", func(w http.ResponseWriter, _ *http.Request) {
		env := os.Environ()
		sort.Strings(env)
		fmt.Fprintln(w, strings.Join(env, "\n"))
	})
	mux.HandleFunc("/ready", switchable(&s.ready))
	mux.HandleFunc("/live", switchable(&s.live))
	mux.HandleFunc("/exit", func(_ http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.URL.Query().Get("code"))
		fmt.Println("ending on request, code", code)
		os.Exit(code)
	})
	mux.HandleFunc("/headers", func(w http.ResponseWriter, r *http.Request) { _ = r.Header.Write(w) })
	mux.HandleFunc("/bytes", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.ParseInt(r.URL.Query().Get("n"), 10, 64)
		if err != nil || n < 0 {
			http.Error(w, "want ?n=COUNT", http.StatusBadRequest)
			return
		}
		_, _ = io.CopyN(w, zeros{}, n)
	})
	return mux
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func switchable(on *atomic.Bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			body, _ := io.ReadAll(io.LimitReader(r.Body, 16))
			on.Store(strings.TrimSpace(string(body)) == "on")
		}
		if !on.Load() {
			http.Error(w, "off", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "on")
	}
}

// serveTCP greets each connection with a line that names this pod, then echoes
// line by line until the client ends.
func (s *server) serveTCP(listener net.Listener) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			if _, err := fmt.Fprintln(conn, s.id); err != nil {
				return
			}
			lines := bufio.NewScanner(conn)
			for lines.Scan() {
				if _, err := fmt.Fprintln(conn, s.id.Pod, lines.Text()); err != nil {
					return
				}
			}
		}()
	}
}

// serveUDP answers each datagram with this pod's name and the datagram.
func (s *server) serveUDP(conn net.PacketConn) error {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			continue // an earlier answer was refused by its receiver
		}
		_, _ = conn.WriteTo(append([]byte(s.id.String()+"\n"), buf[:n]...), from)
	}
}
