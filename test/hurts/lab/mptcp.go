package lab

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Numbers of linux/mptcp_pm.h.
const (
	mptcpAddAddr     = 1
	mptcpFlushAddrs  = 4
	mptcpSetLimits   = 5
	mptcpAttrAddr    = 1
	mptcpAttrRcvAdd  = 2
	mptcpAttrSubflow = 3
	mptcpAddrFamily  = 1
	mptcpAddrID      = 2
	mptcpAddr4       = 3
	mptcpAddrFlags   = 6
	mptcpSignal      = 1
)

// AnnounceMPTCP makes MPTCP servers of the host announce an IPv4 address until the end of the test, and its clients connect to
// announced addresses.
func AnnounceMPTCP(tb testing.TB, addr netip.Addr) {
	tb.Helper()
	family, err := netlink.GenlFamilyGet("mptcp_pm")
	if err != nil {
		tb.Fatal("MPTCP is needed (CONFIG_MPTCP): ", err)
	}
	send := func(command uint8, attributes ...*nl.RtAttr) {
		tb.Helper()
		request := nl.NewNetlinkRequest(int(family.ID), unix.NLM_F_ACK)
		request.AddData(&nl.Genlmsg{Command: command, Version: 1})
		for _, a := range attributes {
			request.AddData(a)
		}
		if _, err := request.Execute(unix.NETLINK_GENERIC, 0); err != nil {
			tb.Fatal("configure MPTCP: ", err)
		}
	}
	send(mptcpSetLimits,
		nl.NewRtAttr(mptcpAttrRcvAdd, nl.Uint32Attr(2)),
		nl.NewRtAttr(mptcpAttrSubflow, nl.Uint32Attr(2)))
	as4 := addr.As4()
	announced := nl.NewRtAttr(mptcpAttrAddr|unix.NLA_F_NESTED, nil)
	announced.AddRtAttr(mptcpAddrFamily, nl.Uint16Attr(unix.AF_INET))
	announced.AddRtAttr(mptcpAddrID, nl.Uint8Attr(7))
	announced.AddRtAttr(mptcpAddr4, as4[:])
	announced.AddRtAttr(mptcpAddrFlags, nl.Uint32Attr(mptcpSignal))
	send(mptcpAddAddr, announced)
	tb.Cleanup(func() { send(mptcpFlushAddrs) })
}

// MPTCP serves echoes at an address and returns a connection to it.
func (n *Namespace) MPTCP(tb testing.TB, address string) net.Conn {
	tb.Helper()
	var conn net.Conn
	n.Do(func() error {
		var config net.ListenConfig
		config.SetMultipathTCP(true)
		listener, err := config.Listen(context.Background(), "tcp4", address)
		if err != nil {
			return err
		}
		tb.Cleanup(func() { listener.Close() })
		go func() {
			for {
				accepted, err := listener.Accept()
				if err != nil {
					return
				}
				go func() {
					defer accepted.Close()
					io.Copy(accepted, accepted)
				}()
			}
		}()
		dialer := net.Dialer{Timeout: Deadline}
		dialer.SetMultipathTCP(true)
		conn, err = dialer.Dial("tcp4", address)
		return err
	})
	tb.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(Deadline))
	return conn
}
