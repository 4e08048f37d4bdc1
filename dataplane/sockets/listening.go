package sockets

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"unsafe"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/service"
)

// udpUnconnected is the state of a UDP socket that accepts datagrams from any sender (TCP_CLOSE of net/tcp_states.h).
const udpUnconnected = 7

// Listener is an address where a socket waits for clients. An unspecified one is every address; of IPv6 it may be every IPv4
// address too.
type Listener struct {
	Protocol service.Protocol
	Addr     netip.AddrPort
}

// Listening lists the sockets of the thread's network namespace that wait for clients at a port: TCP sockets that listen, and
// UDP sockets that have no peer, the kernel's own included.
func Listening(protocol service.Protocol, port uint16) (list []Listener, err error) {
	states := uint32(1 << tcpListen)
	if protocol == service.UDP {
		states = 1 << udpUnconnected
	}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		request := nl.NewNetlinkRequest(sockDiagByFamily, unix.NLM_F_DUMP)
		asked := &diagRequest{family: family, protocol: uint8(protocol), states: states}
		binary.BigEndian.PutUint16(asked.id.sourcePort[:], port)
		request.AddData(asked)
		err := request.ExecuteIter(unix.NETLINK_INET_DIAG, 0, func(data []byte) bool {
			var message diagMessage
			if size := int(unsafe.Sizeof(message)); len(data) >= size {
				copy(unsafe.Slice((*byte)(unsafe.Pointer(&message)), size), data)
				if l := listenerOf(&message, protocol); l.Addr.Port() == port {
					list = append(list, l)
				}
			}
			return true
		})
		if err != nil {
			return nil, fmt.Errorf("list %s sockets: %w", protocol, err)
		}
	}
	return list, nil
}

func listenerOf(message *diagMessage, protocol service.Protocol) Listener {
	addr := netip.AddrFrom16(message.id.source).Unmap()
	if message.family == unix.AF_INET {
		addr = netip.AddrFrom4([4]byte(message.id.source[:4]))
	}
	return Listener{Protocol: protocol, Addr: netip.AddrPortFrom(addr, binary.BigEndian.Uint16(message.id.sourcePort[:]))}
}
