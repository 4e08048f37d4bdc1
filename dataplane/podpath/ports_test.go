package podpath_test

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/skep-io/skep/dataplane/podpath/fabrictest"
	"github.com/skep-io/skep/dataplane/service"
)

// One socket of a pod asks two services with one backend: each answer comes from the service that was asked, and errors quote the packets sent.
func TestOneSocketAtTwoServices(t *testing.T) {
	f := fabrictest.New(t, 2)
	f.OpenPaths()
	client := f.Hosts[0].NewPod("client")
	for k, server := range []*fabrictest.Pod{f.Hosts[0].NewPod("here"), f.Hosts[1].NewPod("elsewhere")} {
		first, asked := serviceFor("default/first-"+server.ID, service.UDP, 53+2*uint16(k), 5353, server)
		second, others := serviceFor("default/second-"+server.ID, service.UDP, 54+2*uint16(k), 5353, server)
		f.SetService(first)
		f.SetService(second)
		for i := range asked {
			var conn net.PacketConn
			client.Do(func() (err error) {
				conn, err = net.ListenPacket("udp", netip.AddrPortFrom(client.Addrs[i], 0).String())
				return err
			})
			defer conn.Close()
			serveUDP(t, server.Namespace, netip.AddrPortFrom(server.Addrs[i], 5353))
			for range 3 {
				for _, to := range []netip.AddrPort{asked[i], others[i]} {
					if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
						t.Fatal(err)
					}
					if _, err := conn.WriteTo([]byte("?"), net.UDPAddrFromAddrPort(to)); err != nil {
						t.Fatal(err)
					}
					_, from, err := conn.ReadFrom(make([]byte, 256))
					if err != nil || from.String() != to.String() {
						t.Errorf("pod %s asked at %s after its other service: answer of %v, %v", server.ID, to, from, err)
					}
				}
			}
		}
	}
}
