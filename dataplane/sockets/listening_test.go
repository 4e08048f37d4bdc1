package sockets

import (
	"fmt"
	"net"
	"slices"
	"testing"

	"github.com/skep-io/skep/dataplane/sandbox"
	"github.com/skep-io/skep/dataplane/service"
)

// Sockets that wait for clients are found by their port, whatever their address; those with a peer are not.
func TestListening(t *testing.T) {
	ns := sandbox.NewNamespace(t)
	ns.Do(func() error {
		for _, c := range []struct{ network, at string }{{"tcp4", "127.0.0.1:7001"}, {"tcp", "[::]:7002"}, {"udp4", "0.0.0.0:7001"}, {"udp6", "[::1]:7003"}} {
			var closer interface{ Close() error }
			var err error
			if c.network[:3] == "tcp" {
				closer, err = net.Listen(c.network, c.at)
			} else {
				closer, err = net.ListenPacket(c.network, c.at)
			}
			if err != nil {
				return err
			}
			defer closer.Close()
		}
		conn, err := net.Dial("udp4", "127.0.0.1:7001")
		if err != nil {
			return err
		}
		defer conn.Close()
		connected := conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
		for _, c := range []struct {
			protocol service.Protocol
			port     uint16
			want     []string
		}{
			{service.TCP, 7001, []string{"127.0.0.1:7001"}}, {service.TCP, 7002, []string{"[::]:7002"}}, {service.TCP, 7003, nil},
			{service.UDP, 7001, []string{"0.0.0.0:7001"}}, {service.UDP, 7003, []string{"[::1]:7003"}}, {service.UDP, 7002, nil}, {service.UDP, connected, nil},
		} {
			list, err := Listening(c.protocol, c.port)
			if err != nil {
				return err
			}
			var got []string
			for _, l := range list {
				got = append(got, l.Addr.String())
			}
			if !slices.Equal(got, c.want) {
				return fmt.Errorf("%s port %d: %v, want %v", c.protocol, c.port, got, c.want)
			}
		}
		return nil
	})
}
