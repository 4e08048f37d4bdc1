package podpath_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/podpath"
	"github.com/skep-io/skep/dataplane/podpath/fabrictest"
	"github.com/skep-io/skep/dataplane/service"
)

func traffic(t *testing.T, h *fabrictest.Host) map[netip.AddrPort]podpath.Traffic {
	t.Helper()
	lines, err := h.Path.Traffic()
	if err != nil {
		t.Fatal(err)
	}
	all := map[netip.AddrPort]podpath.Traffic{}
	for _, line := range lines {
		all[line.Backend] = line
	}
	return all
}

func TestTrafficIsCountedAtTheBackend(t *testing.T) {
	f := fabrictest.New(t, 2)
	f.OpenPaths()
	near, far := f.Hosts[0].NewPod("near"), f.Hosts[1].NewPod("far")
	server := f.Hosts[0].NewPod("server")
	s, frontends := serviceFor("default/udp:udp", service.UDP, 80, 8080, server)
	f.SetService(s)
	backend := netip.AddrPortFrom(server.Addr4(), 8080)
	serveUDP(t, server.Namespace, backend)
	callers := []struct {
		name string
		ns   *fabrictest.Namespace
		to   netip.AddrPort
	}{
		{"a pod here, by the service", near.Namespace, frontends[0]},
		{"a pod here, directly", near.Namespace, backend},
		{"a pod elsewhere, by the service", far.Namespace, frontends[0]},
		{"the host", f.Hosts[0].Namespace, backend},
	}
	for _, caller := range callers {
		before := traffic(t, f.Hosts[0])[backend]
		conn := dial(t, caller.ns, "udp", caller.to)
		answer := len(echoUDP(t, conn, 100).String()) + 1
		after := traffic(t, f.Hosts[0])[backend]
		got := fmt.Sprint(after.ToPackets-before.ToPackets, after.ToBytes-before.ToBytes, after.FromPackets-before.FromPackets, after.FromBytes-before.FromBytes)
		const headers = 14 + 20 + 8
		if want := fmt.Sprint(1, headers+100, 1, headers+100+answer); got != want {
			t.Errorf("%s: %s packets and bytes to and from the backend, want %s", caller.name, got, want)
		}
	}
	if lines := traffic(t, f.Hosts[1]); len(lines) != 0 {
		t.Errorf("the node without the backend accounts %v", lines)
	}
	f.Hosts[0].Do(func() error { return f.Hosts[0].Path.Detach(server.Index) })
	if lines := traffic(t, f.Hosts[0]); len(lines) != 0 {
		t.Errorf("after the backend's pod went: %v", lines)
	}
}

// Programs are replaced in place: a transfer that runs meanwhile loses nothing, and each process adopts what the last one left.
func TestPathsChangeUnderTraffic(t *testing.T) {
	f := fabrictest.New(t, 2)
	f.OpenPaths()
	client, server := f.Hosts[0].NewPod("client"), f.Hosts[1].NewPod("server")
	s, frontends := serviceFor("default/web:http", service.TCP, 80, 8080, server)
	f.SetService(s)
	serve(t, server.Namespace, netip.AddrPortFrom(server.Addr4(), 8080))
	stop, done := make(chan struct{}), make(chan error, 1)
	var rounds int
	go func() {
		for {
			if err := transfer(client.Namespace, frontends[0], 4<<20); err != nil {
				done <- err
				return
			}
			rounds++
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
		}
	}()
	for i := range 6 {
		for _, h := range f.Hosts {
			// Clsact and back: every program is attached anew each time.
			h.OpenPath(func(o *podpath.Options) { o.Clsact = i%2 == 0 })
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Errorf("transfer %d: %v", rounds, err)
	}
}

func TestARestartChangesNothingThatIsRight(t *testing.T) {
	bothWays(t, func(t *testing.T, change func(*podpath.Options)) {
		f := fabrictest.New(t, 1)
		h := f.Hosts[0]
		h.OpenPath(change)
		h.NewPod("a")
		h.NewPod("b")
		before := programs(t, h)
		if len(before) != 6 { // two of each pod, two of the uplink
			t.Fatalf("programs: %v, want 6", before)
		}
		h.OpenPath(change)
		if after := programs(t, h); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("a restart made %v of %v", after, before)
		}
	})
}

// programs are those at the host's interfaces, filters and at tcx, by place.
func programs(t *testing.T, h *fabrictest.Host) map[string]ebpf.ProgramID {
	t.Helper()
	found := map[string]ebpf.ProgramID{}
	h.Do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
				filters, err := netlink.FilterList(l, parent)
				if err != nil {
					return err
				}
				for _, f := range filters {
					if b, is := f.(*netlink.BpfFilter); is {
						found[fmt.Sprintf("%s at %s, priority %d", b.Name, l.Attrs().Name, b.Priority)] = ebpf.ProgramID(b.Id)
					}
				}
			}
			for _, at := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
				result, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: at})
				if errors.Is(err, unix.EINVAL) {
					continue // the kernel is older than tcx
				}
				if err != nil {
					return err
				}
				for i, p := range result.Programs {
					found[fmt.Sprintf("%v at %s, place %d", at, l.Attrs().Name, i)] = p.ID
				}
			}
		}
		return nil
	})
	return found
}

func TestOpenRepairsWhatIsMissing(t *testing.T) {
	bothWays(t, func(t *testing.T, change func(*podpath.Options)) {
		f := fabrictest.New(t, 1)
		h := f.Hosts[0]
		h.OpenPath(change)
		kept, gone := h.NewPod("kept"), h.NewPod("gone")
		client := h.NewPod("client")
		target := netip.AddrPortFrom(kept.Addr4(), 8080)
		serve(t, kept.Namespace, target)
		// One pod's programs are lost, another pod is removed while no process runs.
		if err := os.RemoveAll(filepath.Join(h.Pins, "path", "links")); err != nil {
			t.Fatal(err)
		}
		h.Do(func() error {
			at, err := netlink.LinkByIndex(kept.Index)
			if err != nil {
				return err
			}
			if change != nil {
				return netlink.QdiscDel(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
					LinkIndex: at.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}})
			}
			return nil
		})
		h.Do(func() error { return h.Network.Detach(gone.ID) })
		h.Forget(gone)
		h.OpenPath(change)
		before := counters(t, h)
		ask(t, client.Namespace, "tcp", target)
		wantMovedBeside(t, "after the repair", before, counters(t, h), neighbourTalk, "from_pod/peer")
	})
}

func TestDetachAndRemoveLeaveNothing(t *testing.T) {
	bothWays(t, func(t *testing.T, change func(*podpath.Options)) {
		f := fabrictest.New(t, 1)
		h := f.Hosts[0]
		before := hooks(t, h)
		h.OpenPath(change)
		pod := h.NewPod("pod")
		h.Do(func() error {
			for range 2 { // the second finds nothing to do
				if err := h.Path.Detach(pod.Index); err != nil {
					return err
				}
			}
			return h.Path.Attach(pod.Index, pod.Addrs, pod.PodMAC)
		})
		if len(hooks(t, h)) == len(before) {
			t.Fatal("nothing is attached")
		}
		for range 2 {
			h.Do(func() error { return podpath.Remove(filepath.Join(h.Pins, "path")) })
		}
		h.Do(func() error { return h.Network.Detach(pod.ID) })
		if after := hooks(t, h); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("hooks %v, were %v before", after, before)
		}
		if _, err := os.Stat(filepath.Join(h.Pins, "path")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("pins are left: %v", err)
		}
	})
}

// hooks are the clsact qdiscs and the programs of the host's interfaces.
func hooks(t *testing.T, h *fabrictest.Host) (found []string) {
	t.Helper()
	for place := range programs(t, h) {
		found = append(found, place)
	}
	h.Do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			qdiscs, err := netlink.QdiscList(l)
			if err != nil {
				return err
			}
			for _, q := range qdiscs {
				if q.Type() == "clsact" {
					found = append(found, "clsact at "+l.Attrs().Name)
				}
			}
		}
		return nil
	})
	slices.Sort(found)
	return found
}

func TestAttachRefusesWhatIsNoPod(t *testing.T) {
	f := fabrictest.New(t, 1)
	f.OpenPaths()
	h := f.Hosts[0]
	pod := h.NewPod("pod")
	h.Do(func() error {
		for what, err := range map[string]error{
			"no such interface": h.Path.Attach(1<<20, pod.Addrs, pod.PodMAC),
			"no link address":   h.Path.Attach(pod.Index, pod.Addrs, nil),
			"no address":        h.Path.Attach(pod.Index, []netip.Addr{{}}, pod.PodMAC),
		} {
			if err == nil {
				t.Errorf("%s: attached", what)
			}
		}
		return nil
	})
	if _, err := podpath.Open(h.PathOptions()); err == nil {
		t.Error("a second owner of the pin folder was let in")
	}
}
