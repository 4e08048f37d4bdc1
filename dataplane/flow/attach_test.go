package flow

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/skep-io/skep/dataplane/service"
)

// xdpMode is how an interface of the thread's namespace has XDP attached.
func xdpMode(t *testing.T, name string) string {
	t.Helper()
	device, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	xdp := device.Attrs().Xdp
	switch {
	case xdp == nil || !xdp.Attached:
		return "none"
	case xdp.AttachMode == 2: // XDP_ATTACHED_SKB
		return "generic"
	}
	return "native"
}

func (s *stage) mode(t *testing.T, name string) (mode string) {
	t.Helper()
	s.Do(func() error {
		mode = xdpMode(t, name)
		return nil
	})
	return mode
}

// again closes the flows and opens them with other options, as the next process does.
func (s *stage) again(t *testing.T, change func(*Options)) {
	t.Helper()
	if err := s.flows.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.program.Close(); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&s.options)
	}
	s.open()
}

func (s *stage) programID(t *testing.T) uint32 {
	t.Helper()
	info, err := s.program.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	return uint32(id)
}

func TestFlowsSurviveTheProcess(t *testing.T) {
	s := newStage(t)
	s.set(external("t/tcp", service.TCP, vip4, backend(pod4, "node1")))
	s.run(tcp(client4, vip4, tcpSYN).arriving())
	id := s.programID(t)
	s.again(t, nil)
	if s.programID(t) != id {
		t.Error("the same program over the same maps was replaced")
	}
	known := step{"known flow", tcp(client4, vip4, tcpACK).arriving(), xdpPass, tcp(client4, pod4, tcpACK).arriving(), []string{"delivered"}}
	s.check(t, known)
	s.again(t, func(o *Options) { o.Limits.Fragments = 500 })
	if s.programID(t) == id {
		t.Error("a program over other maps was not replaced")
	}
	s.check(t, known)
	s.again(t, func(o *Options) { o.Limits.Flows = 500 })
	s.forgetRecent(t)
	s.check(t, step{"after the flow table changed its size", tcp(client4, vip4, tcpACK).arriving(), xdpPass,
		tcp(client4, pod4, tcpACK).arriving(), []string{"delivered", "event_flow_made", "event_mid_flow"}})
}

func TestModesAndUplinks(t *testing.T) {
	s := newStage(t)
	if mode := s.mode(t, "eth0"); mode != "native" {
		t.Errorf("eth0 has XDP in mode %s, want native", mode)
	}
	s.again(t, func(o *Options) { o.GenericXDP = true })
	if mode := s.mode(t, "eth0"); mode != "generic" {
		t.Errorf("eth0 has XDP in mode %s, want generic as forced", mode)
	}
	s.again(t, func(o *Options) { o.GenericXDP = false; o.Uplinks = []string{"eth0", "far"} })
	if mode := s.mode(t, "far"); mode != "native" {
		t.Errorf("far has XDP in mode %s, want native", mode)
	}
	s.again(t, func(o *Options) { o.Uplinks = []string{"eth0"} })
	if mode := s.mode(t, "far"); mode != "none" {
		t.Errorf("far has XDP in mode %s, want none: it is no uplink any more", mode)
	}
	if left, err := s.flows.maps.uplinks.All(); err != nil || len(left) != 1 {
		t.Errorf("uplinks %v, %v, want eth0 alone", left, err)
	}
	s.again(t, nil)
	_ = s.flows.Close()
	s.Do(func() error { return Remove(s.options.PinDir) })
	if mode := s.mode(t, "eth0"); mode != "none" {
		t.Errorf("eth0 has XDP in mode %s after Remove", mode)
	}
	if _, err := os.Stat(s.options.PinDir); !os.IsNotExist(err) {
		t.Errorf("pins after Remove: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	s := newStage(t)
	for _, c := range []struct {
		name   string
		change func(*Options)
		want   string
	}{
		{"second process", func(*Options) {}, "owned by another process"},
		{"no plane", func(o *Options) { o.Plane = nil }, "service maps are missing"},
		{"bad address", func(o *Options) { o.PinDir, o.NodeIPs = filepath.Join(s.pins, "c"), []netip.Addr{{}} }, "no address"},
	} {
		t.Run(c.name, func(t *testing.T) {
			options := s.options
			c.change(&options)
			err := s.Try(func() error {
				f, err := Open(options)
				if err == nil {
					f.Close()
				}
				return err
			})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error about %q", err, c.want)
			}
		})
	}
	// None of them changed the running program.
	pinned, err := link.LoadPinnedLink(s.flows.linkPin(s.flows.uplinks[0], modeNative), nil)
	if err != nil {
		t.Fatal(err)
	}
	pinned.Close()
	s.set(external("t/tcp", service.TCP, vip4, backend(pod4, "node1")))
	s.check(t, step{"still running", tcp(client4, vip4, tcpSYN).arriving(), xdpPass, tcp(client4, pod4, tcpSYN).arriving(),
		[]string{"delivered", "event_flow_made"}})
}
