package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/servicespec"
)

// A load-balancer address outlives skepd and the node that has it, and only one node has it at any time.
func TestLoadBalancerAddressOutlives(t *testing.T) {
	s := newSpace(t)
	s.echoAndClient()
	s.untilAsked(3)
	s.Skep("patch", "service", "echo", "-p", `{"spec":{"type":"LoadBalancer"}}`)
	s.Skep("wait", "service/echo", "--for=jsonpath={.status.loadBalancer.ingress[0].ip}", "--timeout=60s")
	at := net.JoinHostPort(s.Skep("get", "service", "echo", "-o", "jsonpath={.status.loadBalancer.ingress[0].ip}"), "7000")
	s.untilAnswered(at)
	t.Run("skepd", func(t *testing.T) { s.in(t).withoutSkepd(at) })
	t.Run("node", func(t *testing.T) { s.in(t).withoutAnnouncer(at) })
}

// withoutSkepd asks for longer than any lease lasts: nothing is lost, and the same node answers.
func (s *space) withoutSkepd(at string) {
	before := s.owners(at)
	if err := local.KillControlPlane(s.Context()); err != nil {
		s.Fatal(err)
	}
	asked, lost := 0, 0
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); asked++ {
		if _, err := askPatiently(at); err != nil {
			lost++
			s.Errorf("request %d without skepd: %v", asked, err)
		}
		time.Sleep(10 * time.Millisecond) // the clients' pace
	}
	s.Logf("%d requests in 20 s without skepd, %d lost", asked, lost)
	if after := s.owners(at); len(before) != 1 || !slices.Equal(before, after) {
		s.Errorf("hosts %v answer for %s, before skepd went %v did", after, at, before)
	}
	if err := local.StartControlPlane(s.Context()); err != nil {
		s.Fatal(err)
	}
}

// withoutAnnouncer disconnects the node that has the address: another takes it, and when the first is back one of them has it.
func (s *space) withoutAnnouncer(at string) {
	name := s.announcer()
	node, err := local.Node(name)
	if err != nil {
		s.Fatal(err)
	}
	before := s.owners(at)
	if err := node.Cut(); err != nil {
		s.Fatal(err)
	}
	defer func() {
		if err := node.Heal(); err != nil {
			s.Error(err)
		}
	}()
	began := time.Now()
	// The bridge sends what is for a host that is cut off to all others, and one that has the address may not be the only one to answer.
	s.untilAnnouncedElsewhere(name)
	s.untilAnswered(at)
	s.Logf("the address answers %v after %s was cut off", time.Since(began).Round(100*time.Millisecond), name)
	if during := s.owners(at); len(during) != 1 || slices.Equal(during, before) {
		s.Errorf("hosts %v answer while %s is cut off, before that %v did", during, name, before)
	}
	if err := node.Heal(); err != nil {
		s.Fatal(err)
	}
	var owners []string
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if owners = s.owners(at); len(owners) == 1 {
			s.untilAnswered(at)
			return
		}
	}
	s.Errorf("once %s is back, hosts %v answer for %s", name, owners, at)
}

// announcer is the node that is to answer for the service's address.
func (s *space) announcer() string {
	s.Helper()
	service, err := client.CoreV1().Services(s.Name).Get(s.Context(), "echo", metav1.GetOptions{})
	if err != nil {
		s.Fatal(err)
	}
	return service.Annotations[servicespec.AnnouncedByAnnotation]
}

// untilAnnouncedElsewhere watches the service until another node is to answer.
func (s *space) untilAnnouncedElsewhere(node string) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	events, err := client.CoreV1().Services(s.Name).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=echo"})
	if err != nil {
		s.Fatal(err)
	}
	defer events.Stop()
	for event := range events.ResultChan() {
		service, ok := event.Object.(*corev1.Service)
		if !ok {
			continue
		}
		if by := service.Annotations[servicespec.AnnouncedByAnnotation]; by != "" && by != node {
			return
		}
	}
	s.Fatalf("no node but %s was to answer within %s", node, patience)
}

// askPatiently waits for as long as TCP needs to send a lost packet again on a busy machine.
func askPatiently(at string) (string, error) {
	conn, err := net.DialTimeout("tcp", at, 10*time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintln(conn, "?"); err != nil {
		return "", err
	}
	buf := make([]byte, 256)
	n, err := conn.Read(buf)
	return strings.TrimSpace(string(buf[:n])), err
}

// untilAnswered asks from this machine, which is outside, until ten requests in turn were answered.
func (s *space) untilAnswered(at string) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	var last error
	for answered := 0; answered < 10; {
		if ctx.Err() != nil {
			s.Fatalf("%s does not answer: %v", at, last)
		}
		if _, err := ask("tcp", at); err != nil {
			answered, last = 0, err
			continue
		}
		answered++
	}
}

// owners are the link addresses of the hosts that say within two seconds that an address is theirs.
func (s *space) owners(at string) []string {
	s.Helper()
	addr := netip.MustParseAddrPort(at).Addr()
	routes, err := netlink.RouteGet(addr.AsSlice())
	if err != nil || len(routes) == 0 {
		s.Fatalf("route to %s: %v", addr, err)
	}
	index := routes[0].LinkIndex
	link, err := netlink.LinkByIndex(index)
	if err != nil {
		s.Fatal(err)
	}
	const arp = 0x0608 // in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, arp)
	if err != nil {
		s.Fatal(err)
	}
	defer unix.Close(fd)
	everybody := [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	question := append(append(slices.Clone(everybody[:6]), link.Attrs().HardwareAddr...), 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	question = append(append(question, link.Attrs().HardwareAddr...), 0, 0, 0, 0)
	question = append(append(question, 0, 0, 0, 0, 0, 0), addr.AsSlice()...)
	found, buffer := map[string]bool{}, make([]byte, 256)
	var asked time.Time
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		if time.Since(asked) > 200*time.Millisecond {
			asked = time.Now()
			if err := unix.Sendto(fd, question, 0, &unix.SockaddrLinklayer{Ifindex: index, Halen: 6, Addr: everybody}); err != nil {
				s.Fatal(err)
			}
		}
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100); err != nil && !errors.Is(err, unix.EINTR) {
			s.Fatal(err)
		}
		n, _, err := unix.Recvfrom(fd, buffer, unix.MSG_DONTWAIT)
		if err == nil && n >= 42 && buffer[21] == 2 && netip.AddrFrom4([4]byte(buffer[28:])) == addr {
			found[net.HardwareAddr(buffer[22:28]).String()] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}
