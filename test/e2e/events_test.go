package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/test/clustertest"
)

// A refused connection, from inside or from outside, is reported once, by the node where it was refused; and at once to a
// client that follows events.
func TestEventsOfRefusedConnections(t *testing.T) {
	s := newSpace(t)
	s.apply("client.yaml")
	node := s.Await("the client", clustertest.AllReady(1))[0].Spec.NodeName
	s.SkepIn(`{"apiVersion":"v1","kind":"Service","metadata":{"name":"empty"},"spec":{"type":"NodePort","selector":{"app":"none"},
		"ports":[{"name":"tcp","port":7000}]}}`, "apply", "-f", "-")
	address, port, _ := strings.Cut(s.Skep("get", "service", "empty", "-o", "jsonpath={.spec.clusterIP} {.spec.ports[0].nodePort}"), " ")
	connect := func() {
		t.Helper()
		s.WantIn(s.Refused("", "exec", "client", "--", "/echo", "client", "--count", "1", address), "connection refused")
	}
	s.Skep("dataplane", "verify") // the service is installed
	from, to := s.refusedOutside(node, port)
	connect()

	said := "  " + node + "  " + s.Name + "/empty:tcp: no backend: "
	byProcess := regexp.MustCompile(`(?m)^.*` + said + `process [1-9][0-9]* \(echo\), asked ` + regexp.QuoteMeta(address) + `:7000/TCP$`)
	byClient := said + "client " + from.String() + ", asked " + to.String() + "/TCP\n"
	out := s.Skep("dataplane", "events")
	if n := len(byProcess.FindAllString(out, -1)); n != 1 {
		t.Errorf("the pod's connection is reported %d times, want once:\n%s", n, out)
	}
	if n := strings.Count(out, byClient); n != 1 {
		t.Errorf("the connection from outside is reported %d times, want once, as %q:\n%s", n, byClient, out)
	}
	if n := strings.Count(out, "asked "+address+":7000/") + strings.Count(out, "asked "+to.String()+"/"); n != 2 {
		t.Errorf("two connections are reported %d times:\n%s", n, out)
	}
	s.wantEvent(node, from, to)

	lines, end := s.follow(node)
	awaitLine(t, lines, byProcess) // what was before: from here on it follows
	connect()
	awaitLine(t, lines, byProcess)
	end()
	s.WantIn(s.Refused("", "dataplane", "events", "nowhere"), "nowhere")
	s.WantIn(s.Refused("", "get", "--raw", "/api/v1/nodes/"+node+"/proxy/skep/v1/events?follow=perhaps"), "BadRequest")
}

// refusedOutside connects from this machine, which is outside the cluster, to a node's port and is refused. It returns both ends.
func (s *space) refusedOutside(node, port string) (from, to netip.AddrPort) {
	s.Helper()
	n, err := local.Node(node)
	if err != nil {
		s.Fatal(err)
	}
	to = netip.MustParseAddrPort(net.JoinHostPort(n.Addr.String(), port))
	way, err := net.Dial("udp", to.String()) // tells the address that this machine has there, and sends nothing
	if err != nil {
		s.Fatal(err)
	}
	here := way.LocalAddr().(*net.UDPAddr).AddrPort().Addr()
	way.Close()
	dialer := net.Dialer{Timeout: patience, Control: func(_, _ string, raw syscall.RawConn) (failed error) {
		err := raw.Control(func(fd uintptr) {
			if failed = unix.Bind(int(fd), &unix.SockaddrInet4{Addr: here.As4()}); failed != nil {
				return
			}
			var bound unix.Sockaddr
			if bound, failed = unix.Getsockname(int(fd)); failed == nil {
				from = netip.AddrPortFrom(here, uint16(bound.(*unix.SockaddrInet4).Port))
			}
		})
		return errors.Join(err, failed)
	}}
	if conn, err := dialer.DialContext(s.Context(), "tcp4", to.String()); !errors.Is(err, unix.ECONNREFUSED) {
		s.Fatalf("%s from outside: %v, %v, want it refused", to, conn, err)
	}
	return from, to
}

// wantEvent reads a node's events as JSON.
func (s *space) wantEvent(node string, from, to netip.AddrPort) {
	s.Helper()
	out := s.Skep("get", "--raw", "/api/v1/nodes/"+node+"/proxy/skep/v1/events")
	for line := range strings.Lines(out) {
		var e struct {
			Time                    time.Time
			Kind, Service, Protocol string
			Client, Asked           netip.AddrPort
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			s.Fatalf("%v: %s", err, line)
		}
		if e.Client != from {
			continue
		}
		if age := time.Since(e.Time); e.Kind != "no_backend" || e.Service != s.Name+"/empty:tcp" || e.Protocol != "TCP" || e.Asked != to || age < 0 || age > 2*patience {
			s.Errorf("the connection from %s to %s is reported as %s", from, to, line)
		}
		return
	}
	s.Errorf("nothing is reported of the connection from %s:\n%s", from, out)
}

// follow has events printed as they happen. end interrupts the command, which then ends well.
func (s *space) follow(node string) (lines <-chan string, end func()) {
	s.Helper()
	command := exec.CommandContext(s.Context(), filepath.Join(bin, "skep"), "dataplane", "events", node, "--follow")
	command.Env = append(os.Environ(), "KUBECONFIG="+local.Kubeconfig())
	command.Stderr = s.Output()
	out, err := command.StdoutPipe()
	if err != nil {
		s.Fatal(err)
	}
	if err := command.Start(); err != nil {
		s.Fatal(err)
	}
	read := make(chan string, 1024) // more than a node remembers
	go func() {
		defer close(read)
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			read <- scanner.Text()
		}
	}()
	return read, func() {
		s.Helper()
		if err := command.Process.Signal(os.Interrupt); err != nil {
			s.Fatal(err)
		}
		for deadline := time.After(patience); ; {
			select {
			case _, more := <-read:
				if more {
					continue
				}
			case <-deadline:
				s.Fatalf("skep dataplane events --follow goes on %s after an interrupt", patience)
			}
			break
		}
		if err := command.Wait(); err != nil {
			s.Errorf("skep dataplane events --follow, interrupted: %v", err)
		}
	}
}

// awaitLine reads lines up to the first that matches.
func awaitLine(t *testing.T, lines <-chan string, want *regexp.Regexp) {
	t.Helper()
	for deadline := time.After(patience); ; {
		select {
		case line, more := <-lines:
			if !more {
				t.Fatalf("ended before there was a line like %s", want)
			}
			if want.MatchString(line) {
				return
			}
		case <-deadline:
			t.Fatalf("no line like %s within %s", want, patience)
		}
	}
}
