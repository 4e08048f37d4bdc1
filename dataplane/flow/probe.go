package flow

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// probeWait is how long neighbours have to claim an address.
const probeWait = 300 * time.Millisecond

// InUse asks the neighbours at all uplinks who has these addresses (RFC 5227's probe, RFC 4862's solicitation without a source),
// and returns those that another host claims within probeWait, asked or not. It must run in the network
// namespace of the uplinks.
func (f *Flows) InUse(addrs []netip.Addr) (map[netip.Addr]bool, error) {
	f.mu.Lock()
	uplinks := append([]uplink{}, f.uplinks...)
	f.mu.Unlock()
	arp, err := openListener(unix.ETH_P_ARP, nil)
	if err != nil {
		return nil, err
	}
	defer unix.Close(arp)
	ndp, err := openListener(unix.ETH_P_IPV6, advertisementsOnly)
	if err != nil {
		return nil, err
	}
	defer unix.Close(ndp)
	for _, u := range uplinks {
		if !u.up {
			continue // nothing there receives this node's packets either
		}
		for _, addr := range addrs {
			to := &unix.SockaddrLinklayer{Ifindex: u.index, Halen: 6}
			frame := probe(u.mac, addr)
			copy(to.Addr[:], frame[:6])
			if err := unix.Sendto(arp, frame, 0, to); err != nil && !errors.Is(err, unix.ENETDOWN) {
				return nil, fmt.Errorf("ask at uplink %s who has %s: %w", u.name, addr, err)
			}
		}
	}
	return listen(arp, ndp, uplinks, addrs)
}

// advertisementsOnly lets neighbour advertisements pass: IPv6 whose next header is ICMPv6, of type 136.
var advertisementsOnly = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 14 + 6},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 3, K: unix.IPPROTO_ICMPV6},
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 14 + 40},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: 136},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
}

func openListener(protocol uint16, filter []unix.SockFilter) (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(protocol<<8|protocol>>8))
	if err != nil {
		return -1, fmt.Errorf("open packet socket: %w", err)
	}
	if filter != nil {
		if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}); err != nil {
			unix.Close(fd)
			return -1, fmt.Errorf("filter neighbour advertisements: %w", err)
		}
	}
	return fd, nil
}

func listen(arp, ndp int, uplinks []uplink, addrs []netip.Addr) (map[netip.Addr]bool, error) {
	taken, buffer := map[netip.Addr]bool{}, make([]byte, 256)
	for end := time.Now().Add(probeWait); ; {
		left := time.Until(end)
		if left <= 0 || len(taken) == len(addrs) {
			return taken, nil
		}
		ready := []unix.PollFd{{Fd: int32(arp), Events: unix.POLLIN}, {Fd: int32(ndp), Events: unix.POLLIN}}
		if _, err := unix.Poll(ready, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return nil, fmt.Errorf("wait for neighbours: %w", err)
		}
		for _, fd := range []int{arp, ndp} {
			for {
				n, _, err := unix.Recvfrom(fd, buffer, 0)
				if err != nil {
					break // nothing more for now, or the interface was removed
				}
				addr, mac, ok := claimOf(buffer[:n])
				if ok && !isOwnMAC(uplinks, mac) {
					for _, asked := range addrs {
						taken[addr] = taken[addr] || asked == addr
					}
					if !taken[addr] {
						delete(taken, addr)
					}
				}
			}
		}
	}
}

func isOwnMAC(uplinks []uplink, mac [6]byte) bool {
	for _, u := range uplinks {
		if u.mac == mac {
			return true
		}
	}
	return false
}

// claimOf returns the address that a frame claims, and by whom: the sender of any ARP packet, or of a neighbour advertisement.
func claimOf(frame []byte) (addr netip.Addr, mac [6]byte, ok bool) {
	if len(frame) < 14 {
		return addr, mac, false
	}
	body := frame[14:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case etherARP:
		if len(body) < 28 || binary.BigEndian.Uint16(body) != 1 || binary.BigEndian.Uint16(body[2:]) != 0x0800 || body[4] != 6 || body[5] != 4 {
			return addr, mac, false
		}
		copy(mac[:], body[8:])
		addr = netip.AddrFrom4([4]byte(body[14:]))
		return addr, mac, !addr.IsUnspecified()
	case etherIPv6:
		if len(body) < 40+24 || body[6] != unix.IPPROTO_ICMPV6 || body[7] != 255 || body[40] != 136 {
			return addr, mac, false
		}
		copy(mac[:], frame[6:])
		return netip.AddrFrom16([16]byte(body[48:])), mac, true
	}
	return addr, mac, false
}

// probe asks who has an address without a source, so that no neighbour's table changes by it.
func probe(mac [6]byte, addr netip.Addr) []byte {
	if addr.Is4() {
		frame := ethernet(broadcastMAC, mac, etherARP)
		frame = append(frame, 0, 1, 8, 0, 6, 4, 0, 1)
		frame = append(append(frame, mac[:]...), 0, 0, 0, 0)
		return append(append(frame, 0, 0, 0, 0, 0, 0), addr.AsSlice()...)
	}
	const length = 24
	bytes := addr.As16()
	group := netip.AddrFrom16([16]byte{0xff, 2, 11: 1, 12: 0xff, 13: bytes[13], 14: bytes[14], 15: bytes[15]})
	body := append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, bytes[:]...)
	pseudo := append(append(make([]byte, 16), group.AsSlice()...), 0, 0, 0, length, 0, 0, 0, unix.IPPROTO_ICMPV6)
	binary.BigEndian.PutUint16(body[2:], checksum(pseudo, body))
	frame := ethernet([6]byte{0x33, 0x33, 0xff, bytes[13], bytes[14], bytes[15]}, mac, etherIPv6)
	frame = append(frame, 0x60, 0, 0, 0, 0, length, unix.IPPROTO_ICMPV6, 255)
	frame = append(append(frame, make([]byte, 16)...), group.AsSlice()...)
	return append(frame, body...)
}
