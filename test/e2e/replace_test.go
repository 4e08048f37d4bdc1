package e2e

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/cmd/skep/cluster"
)

// An agent is killed, and another is upgraded to another build of its programs, while packets pass them: no packet is lost,
// the links stay, and the remains of a pod that was deleted meanwhile are cleaned up.
func TestAgentReplacedUnderTraffic(t *testing.T) {
	programs := copiedPrograms(t)
	var last map[string]attachedLink
	t.Cleanup(func() { wantDetached(t, last) }) // after the cluster has gone down
	s := newSite(t, "re", cluster.Options{Nodes: 2, NoDNS: true, Bin: programs})
	names := []string{runPod(t, s.api, "node1").Name, runPod(t, s.api, "node2").Name}
	s.Skep("label", "pods", "--all", "app=echo")
	s.serveEcho()
	victim := s.deletable("node1")
	victimSide := s.hostSide("node1", victim.Status.PodIP)
	node := s.node("node1")
	for _, addr := range []netip.Addr{node.Addr, node.Addr6} {
		s.wantServed(addr, true, names)
	}
	before, ready := s.links(node), s.readySince(node)
	traffic := s.passTraffic(node)

	pid := agentOf(t, node)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	awaitAgent(t, s.api, node, pid)
	s.wantSameLinks("after the kill", before, s.links(node), false)

	upgraded := changedAgent(t, programs.Agent)
	if err := os.Rename(programs.Agent, programs.Agent+".old"); err != nil { // nothing starts meanwhile
		t.Fatal(err)
	}
	pid = agentOf(t, node)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.Skep("delete", "pod", victim.Name, "--force", "--grace-period=0")
	if err := os.Rename(upgraded, programs.Agent); err != nil {
		t.Fatal(err)
	}
	awaitAgent(t, s.api, node, pid)
	s.wantForgotten(node, victim, victimSide)
	last = s.links(node)
	s.wantSameLinks("after the upgrade", without(before, victimSide), last, true)
	traffic.wantNothingLost()
	if since := s.readySince(node); !since.Equal(ready) {
		t.Errorf("the node was not ready meanwhile: it is so since %v, before since %v", since, ready)
	}
	s.Skep("dataplane", "verify")
}

// copiedPrograms are those of bin, but an agent that the test may replace.
func copiedPrograms(t *testing.T) cluster.Binaries {
	t.Helper()
	programs, err := cluster.BinariesIn(bin)
	if err != nil {
		t.Fatal(err)
	}
	agent, err := os.ReadFile(programs.Agent)
	if err != nil {
		t.Fatal(err)
	}
	programs.Agent = filepath.Join(t.TempDir(), "skep-agent")
	if err := os.WriteFile(programs.Agent, agent, 0o755); err != nil {
		t.Fatal(err)
	}
	return programs
}

// changedAgent is the agent as another build would be: its packet and socket programs do the same by other instructions, which
// the kernel takes for other programs. It is beside the given one.
func changedAgent(t *testing.T, path string) string {
	t.Helper()
	agent, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range []string{"../../bpf/uplink_bpfel.o", "../../bpf/pod_bpfel.o", "../../bpf/socket_bpfel.o"} {
		code, err := os.ReadFile(object)
		if err != nil {
			t.Fatal(err)
		}
		at := bytes.Index(agent, code)
		if at < 0 {
			t.Fatalf("bin/skep-agent does not hold %s: run make build", object)
		}
		copy(agent[at:], otherInstructions(t, object, code))
	}
	changed := path + ".new"
	if err := os.WriteFile(changed, agent, 0o755); err != nil {
		t.Fatal(err)
	}
	return changed
}

// otherInstructions writes "register = n" over 64 bits as one over 32, which clears the rest, or the other way round: the last of
// each program.
func otherInstructions(t *testing.T, name string, code []byte) []byte {
	t.Helper()
	const move64, move32 = 0xb7, 0xb4
	file, err := elf.NewFile(bytes.NewReader(code))
	if err != nil {
		t.Fatal(err)
	}
	symbols, err := file.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	code = slices.Clone(code)
	for _, program := range symbols {
		if elf.ST_TYPE(program.Info) != elf.STT_FUNC || elf.ST_BIND(program.Info) != elf.STB_GLOBAL {
			continue
		}
		body := code[file.Sections[program.Section].Offset+program.Value:][:program.Size]
		at := len(body) - 8
		for at >= 0 && (body[at] != move64 && body[at] != move32 || body[at+7]&0x80 != 0) {
			at -= 8
		}
		if at < 0 {
			t.Fatalf("%s of %s has no instruction that could be another", program.Name, name)
		}
		body[at] ^= move64 ^ move32
	}
	return code
}

// attachedLink is a pinned link.
type attachedLink struct {
	id      link.ID
	program ebpf.ProgramID
	index   int // of the interface, 0 at a cgroup
}

// links are those of a node by the paths of their pins. Every link to an interface that runs a program over the node's maps has to
// be among them.
func (s *site) links(node *cluster.Node) map[string]attachedLink {
	s.Helper()
	root, err := node.HostPath("/sys/fs/bpf/skep")
	if err != nil {
		s.Fatal(err)
	}
	pinned, maps := map[string]attachedLink{}, map[ebpf.MapID]bool{}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if m, err := ebpf.LoadPinnedMap(path, nil); err == nil {
			defer m.Close()
			info, err := m.Info()
			if err != nil {
				return err
			}
			id, _ := info.ID()
			maps[id] = true
			return nil
		}
		l, err := link.LoadPinnedLink(path, nil)
		if err != nil {
			return nil // neither
		}
		defer l.Close()
		found, err := describeLink(l)
		pinned[strings.TrimPrefix(path, root)] = found
		return err
	})
	if err != nil {
		s.Fatal(err)
	}
	s.wantPinned(pinned, maps)
	return pinned
}

func describeLink(l link.Link) (attachedLink, error) {
	info, err := l.Info()
	if err != nil {
		return attachedLink{}, err
	}
	found := attachedLink{id: info.ID, program: info.Program}
	if xdp := info.XDP(); xdp != nil {
		found.index = int(xdp.Ifindex)
	} else if tcx := info.TCX(); tcx != nil {
		found.index = int(tcx.Ifindex)
	}
	return found, nil
}

// wantPinned fails if a link over these maps has no pin, or two.
func (s *site) wantPinned(pinned map[string]attachedLink, maps map[ebpf.MapID]bool) {
	s.Helper()
	pins := map[link.ID]int{}
	for _, l := range pinned {
		pins[l.id]++
	}
	var all link.Iterator
	defer all.Close()
	for all.Next() {
		info, err := all.Link.Info()
		if err != nil || info.XDP() == nil && info.TCX() == nil {
			continue // it was just removed, or is removed with the agent
		}
		program, err := ebpf.NewProgramFromID(info.Program)
		if err != nil {
			continue
		}
		about, err := program.Info()
		program.Close()
		if err != nil {
			continue
		}
		ids, _ := about.MapIDs()
		if slices.ContainsFunc(ids, func(id ebpf.MapID) bool { return maps[id] }) && pins[info.ID] != 1 {
			s.Errorf("link %d (%s) of the node has %d pins, want one", info.ID, about.Name, pins[info.ID])
		}
	}
	if err := all.Err(); err != nil {
		s.Fatal(err)
	}
}

// wantSameLinks fails unless the links are those of before, running the same programs or all of them others.
func (s *site) wantSameLinks(when string, before, after map[string]attachedLink, upgraded bool) {
	s.Helper()
	if len(before) == 0 || len(before) != len(after) {
		s.Errorf("%s: %d links, before %d", when, len(after), len(before))
	}
	for pin, old := range before {
		now, ok := after[pin]
		if !ok || now.id != old.id {
			s.Errorf("%s: link %s is %+v, was %+v: it was not replaced in place", when, pin, now, old)
		}
		if packets := old.index != 0; packets && (now.program != old.program) != upgraded {
			s.Errorf("%s: link %s runs program %d, ran %d", when, pin, now.program, old.program)
		}
	}
}

// wantDetached fails if a link remains; the kernel removes links a moment after their namespace.
func wantDetached(t *testing.T, links map[string]attachedLink) {
	t.Helper()
	for pin, l := range links {
		for deadline := time.Now().Add(patience); ; {
			found, err := link.NewFromID(l.id)
			if errors.Is(err, os.ErrNotExist) {
				break
			}
			if err == nil {
				info, _ := describeLink(found)
				found.Close()
				if l.index != 0 && info.index == 0 {
					break // its interface was removed
				}
			}
			if time.Now().After(deadline) {
				t.Errorf("link %s is there after the cluster went down: %v", pin, err)
				break
			}
		}
	}
}

// deletable is a pod of no service, and where it is connected.
func (s *site) deletable(node string) *corev1.Pod {
	s.Helper()
	s.SkepIn(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"victim"},"spec":{"nodeName":"`+node+`","containers":[{"name":"c","image":"skep/echo:dev"}]}}`, "apply", "-f", "-")
	s.Skep("wait", "pod/victim", "--for=condition=Ready", "--timeout=60s")
	pod, err := s.api.CoreV1().Pods("default").Get(s.Context(), "victim", metav1.GetOptions{})
	if err != nil {
		s.Fatal(err)
	}
	return pod
}

// hostSide is the index of the interface that leads to an address, 0 if there is none.
func (s *site) hostSide(node, addr string) (index int) {
	s.Helper()
	s.on(node, func() error {
		routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
		for _, r := range routes {
			if r.Dst != nil && r.Dst.IP.Equal(net.ParseIP(addr)) && slices.Equal(r.Dst.Mask, net.CIDRMask(32, 32)) {
				index = r.LinkIndex
			}
		}
		return err
	})
	return index
}

// without leaves out the links at an interface.
func without(links map[string]attachedLink, index int) map[string]attachedLink {
	left := map[string]attachedLink{}
	for pin, l := range links {
		if l.index != index {
			left[pin] = l
		}
	}
	return left
}

// wantForgotten waits until nothing of a pod is left on its node.
func (s *site) wantForgotten(node *cluster.Node, pod *corev1.Pod, index int) {
	s.Helper()
	pins, err := node.HostPath("/sys/fs/bpf/skep/path")
	if err != nil {
		s.Fatal(err)
	}
	tables, err := filepath.Glob(filepath.Join(pins, "maps*", "skep_pods"))
	if err != nil || len(tables) != 1 {
		s.Fatalf("maps of pods: %v, %v, want one", tables, err)
	}
	pods, err := ebpf.LoadPinnedMap(tables[0], nil)
	if err != nil {
		s.Fatal(err)
	}
	defer pods.Close()
	s.within("what is left of the pod", func() error {
		for _, ip := range pod.Status.PodIPs {
			key := netip.MustParseAddr(ip.IP).As16()
			if value, err := pods.LookupBytes(key); err != nil || value != nil {
				return errors.Join(err, fmt.Errorf("%s is still in the map of pods", ip.IP))
			}
		}
		return node.InNetwork(func() error {
			if _, err := netlink.LinkByIndex(index); err == nil {
				return fmt.Errorf("its interface %d is still there", index)
			}
			return nil
		})
	})
}

// readySince is since when a node has been ready.
func (s *site) readySince(node *cluster.Node) time.Time {
	s.Helper()
	return s.awaitCondition(node.Name, corev1.NodeReady, corev1.ConditionTrue).LastTransitionTime.Time
}
