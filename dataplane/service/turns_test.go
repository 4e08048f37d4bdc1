package service

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestDownNodeIsPassedOver(t *testing.T) {
	s := inside(t)
	if s == nil {
		return
	}
	p := s.open(t)
	service := serviceOf("default/echo:http", TCP, "10.96.0.1:80", three...)
	for i := range service.Backends {
		service.Backends[i].Node = fmt.Sprintf("node%d", i)
		serve(t, TCP, three[i])
	}
	p.SetService(service)
	p.SetNodeDown("node1", true)
	flush(t, p)
	shares := map[string]int{}
	for range 20 {
		from, err := ask("tcp4", "10.96.0.1:80")
		if err != nil {
			t.Fatal(err)
		}
		shares[from]++
	}
	if shares[three[0]] != 10 || shares[three[2]] != 10 {
		t.Errorf("shares %v, want 10 for each live backend", shares)
	}
	if got := dump(t, p).Counters["node_down_skipped"]; got == 0 {
		t.Error("no skipped backend was counted")
	}
	p.SetNodeDown("node0", true)
	p.SetNodeDown("node2", true)
	flush(t, p)
	if _, err := ask("tcp4", "10.96.0.1:80"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("all nodes down: %v, want ECONNREFUSED", err)
	}
	if got := dump(t, p).Counters["backends_down"]; got != 1 {
		t.Errorf("backends_down is %d, want 1", got)
	}
	p.SetNodeDown("node1", false)
	flush(t, p)
	for range 5 {
		if from, err := ask("tcp4", "10.96.0.1:80"); err != nil || from != three[1] {
			t.Errorf("answered by %s, %v", from, err)
		}
	}
}

func TestWithdrawnAddressGetsNothing(t *testing.T) {
	s := inside(t)
	if s == nil {
		return
	}
	p := s.open(t)
	for _, address := range three {
		serve(t, TCP, address)
	}
	p.SetService(serviceOf("default/echo:http", TCP, "10.96.0.1:80", three...))
	flush(t, p)
	restored := p.WithdrawAddress(netip.MustParseAddr("127.0.1.2"))
	for range 10 { // no Flush: it is removed when the call returns
		if from, err := ask("tcp4", "10.96.0.1:80"); err != nil || from == three[1] {
			t.Errorf("answered by %s, %v", from, err)
		}
	}
	restored()
	restored() // once only
	flush(t, p)
	if slots := dump(t, p).Services[0].Slots; len(slots) != 3 {
		t.Errorf("slots %v, want 3", slots)
	}
}

func TestSharedBackendRemembersWhatWasAskedFor(t *testing.T) {
	s := inside(t)
	if s == nil {
		return
	}
	p := s.open(t)
	serve(t, TCP, three[0])
	fronts := []string{"10.96.0.1:80", "10.96.0.2:80", "10.96.0.3:81"}
	p.SetService(serviceOf("default/a:http", TCP, fronts[0], three[0]))
	both := serviceOf("default/b:http", TCP, fronts[1], three[0])
	both.Frontends = append(both.Frontends, frontend(fronts[2], TCP))
	p.SetService(both)
	flush(t, p)
	for _, front := range fronts {
		conn, err := net.Dial("tcp4", front)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if got := conn.RemoteAddr().String(); got != front {
			t.Errorf("asked for %s, peer is %s", front, got)
		}
	}
}

func TestClientAffinity(t *testing.T) {
	s := inside(t)
	if s == nil {
		return
	}
	p := s.open(t)
	for _, address := range three {
		serve(t, TCP, address)
	}
	service := serviceOf("default/echo:http", TCP, "10.96.0.1:80", three...)
	service.AffinityTimeout = time.Hour
	p.SetService(service)
	flush(t, p)
	first, err := ask("tcp4", "10.96.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if from, err := ask("tcp4", "10.96.0.1:80"); err != nil || from != first {
			t.Errorf("answered by %s, %v; first by %s", from, err, first)
		}
	}
	service.Backends = slices.DeleteFunc(service.Backends, func(b Backend) bool {
		return netip.AddrPortFrom(b.Addr, b.Port).String() == first
	})
	p.SetService(service)
	flush(t, p)
	second, err := ask("tcp4", "10.96.0.1:80")
	if err != nil || second == first {
		t.Errorf("answered by %s, %v after its removal", second, err)
	}
	if from, err := ask("tcp4", "10.96.0.1:80"); err != nil || from != second {
		t.Errorf("answered by %s, %v; before by %s", from, err, second)
	}
}
