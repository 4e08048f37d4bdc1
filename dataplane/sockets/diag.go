package sockets

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/bpf"
	"github.com/skep-io/skep/dataplane/service"
)

// Numbers of linux/sock_diag.h, linux/inet_diag.h and net/tcp_states.h.
const (
	sockDiagByFamily = 20
	sockDestroy      = 21
	diagCgroupID     = 21
	tcpEstablished   = 1
	tcpSynSent       = 2
	tcpTimeWait      = 6
	tcpListen        = 10
	tcpNewSynRecv    = 12
	allStates        = 1<<13 - 2
)

// diagID is struct inet_diag_sockid: ports and addresses in network order.
type diagID struct {
	sourcePort, peerPort [2]byte
	source, peer         [16]byte
	iface                uint32
	cookie               [2]uint32
}

// diagRequest is struct inet_diag_req_v2.
type diagRequest struct {
	family, protocol, extensions, pad uint8
	states                            uint32
	id                                diagID
}

// diagMessage is struct inet_diag_msg.
type diagMessage struct {
	family, state, timer, retransmits   uint8
	id                                  diagID
	expires, received, sent, uid, inode uint32
}

func (r *diagRequest) Len() int { return int(unsafe.Sizeof(*r)) }

func (r *diagRequest) Serialize() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(r)), r.Len())
}

// diag lists sockets over netlink, runs the deciding program for those on a
// target, and closes the stale ones.
type diag struct {
	marks   *marks
	judge   *ebpf.Program
	origins map[service.Protocol]*link.Iter // print what sockets asked for
	cgroup  string
}

func newDiag(o Options) (*diag, error) {
	var objects struct {
		marked
		TCP   *ebpf.Program `ebpf:"skep_print_tcp"`
		UDP   *ebpf.Program `ebpf:"skep_print_udp"`
		Judge *ebpf.Program `ebpf:"skep_judge_socket"`
	}
	if err := load(o, &objects); err != nil {
		return nil, fmt.Errorf("load the program that judges sockets: %w", err)
	}
	defer objects.TCP.Close()
	defer objects.UDP.Close()
	marks, err := newMarks(objects.marked)
	if err != nil {
		return nil, errors.Join(err, objects.Judge.Close())
	}
	d := &diag{marks: marks, judge: objects.Judge, origins: map[service.Protocol]*link.Iter{}, cgroup: o.CgroupPath}
	for protocol, program := range map[service.Protocol]*ebpf.Program{service.TCP: objects.TCP, service.UDP: objects.UDP} {
		iter, err := link.AttachIter(link.IterOptions{Program: program})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("walk over %s sockets: %w", protocol, err), d.Close())
		}
		d.origins[protocol] = iter
	}
	return d, nil
}

func (d *diag) marked() *marks { return d.marks }

func (d *diag) Close() error {
	failed := []error{d.marks.Close(), d.judge.Close()}
	for _, iter := range d.origins {
		failed = append(failed, iter.Close())
	}
	return errors.Join(failed...)
}

// remembered reads what the maps hold about this namespace's sockets of a protocol
// that are on targets, by cookie, into origins.
func (d *diag) remembered(protocol service.Protocol, origins map[uint64]bpf.SocketsSocketState) error {
	printed, err := readAll(d.origins[protocol])
	if err != nil {
		return fmt.Errorf("read what is remembered of %s sockets: %w", protocol, err)
	}
	const cookie, size = 8, 8 + int(unsafe.Sizeof(bpf.SocketsSocketState{}))
	for ; len(printed) >= size; printed = printed[size:] {
		var state bpf.SocketsSocketState
		copy(unsafe.Slice((*byte)(unsafe.Pointer(&state)), size-cookie), printed[cookie:])
		origins[binary.NativeEndian.Uint64(printed)] = state
	}
	return nil
}

// found is a socket that is connected to a target.
type found struct {
	target Target // Connecting as the caller set it
	ifDown bool   // a target only if its node is down
	family uint8
	state  uint8
	id     diagID
	cgroup uint64 // 0: unknown
}

func (d *diag) close(ctx context.Context, targets []Target) (result Result, err error) {
	wanted := map[Target]Target{}
	protocols := map[service.Protocol]struct{}{}
	for _, t := range targets {
		wanted[t.endpoint()] = t
		protocols[t.Protocol] = struct{}{}
	}
	var sockets []found
	for protocol := range protocols {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			if ctx.Err() != nil {
				return result, ctx.Err()
			}
			if err := list(family, protocol, wanted, &sockets); err != nil {
				return result, fmt.Errorf("list %s sockets: %w", protocol, err)
			}
		}
	}
	if len(sockets) == 0 {
		return result, nil
	}
	hooked, err := d.hooked()
	if err != nil {
		return result, err
	}
	origins := map[uint64]bpf.SocketsSocketState{}
	for protocol := range protocols {
		if err := d.remembered(protocol, origins); err != nil {
			return result, err
		}
	}
	for _, socket := range sockets {
		verdict, err := d.decide(socket, hooked, origins)
		if err != nil {
			return result, err
		}
		if verdict == bpf.SocketsVerdictVERDICT_STALE {
			verdict = destroy(socket)
		}
		result.count(verdict, 1)
	}
	return result, nil
}

// list appends the sockets of one family and protocol whose peer is wanted.
// Listening sockets, and connections that no process has open any more, have no
// client that waits.
func list(family uint8, protocol service.Protocol, wanted map[Target]Target, sockets *[]found) error {
	_, anyDown := wanted[downNodes(protocol)]
	request := nl.NewNetlinkRequest(sockDiagByFamily, unix.NLM_F_DUMP)
	states := uint32(1 << tcpEstablished) // a connected UDP socket
	if protocol == service.TCP {
		states = allStates &^ (1<<tcpTimeWait | 1<<tcpListen | 1<<tcpNewSynRecv)
	}
	request.AddData(&diagRequest{family: family, protocol: uint8(protocol), states: states})
	return request.ExecuteIter(unix.NETLINK_INET_DIAG, 0, func(data []byte) bool {
		var message diagMessage
		size := int(unsafe.Sizeof(message))
		if len(data) < size {
			return true
		}
		copy(unsafe.Slice((*byte)(unsafe.Pointer(&message)), size), data)
		socket := found{
			target: peerOf(&message, protocol),
			family: message.family,
			state:  message.state,
			id:     message.id,
			cgroup: cgroupOf(data[size:]),
		}
		if target, ok := wanted[socket.target]; ok {
			socket.target = target
		} else if socket.ifDown = anyDown; !anyDown {
			return true
		}
		*sockets = append(*sockets, socket)
		return true
	})
}

func peerOf(message *diagMessage, protocol service.Protocol) Target {
	t := Target{Port: binary.BigEndian.Uint16(message.id.peerPort[:]), Protocol: protocol}
	if message.family == unix.AF_INET {
		t.Addr = netip.AddrFrom4([4]byte(message.id.peer[:4]))
	} else {
		t.Addr = netip.AddrFrom16(message.id.peer).Unmap()
	}
	return t
}

func cgroupOf(data []byte) uint64 {
	attributes, err := nl.ParseRouteAttr(data)
	if err != nil {
		return 0
	}
	for _, a := range attributes {
		if a.Attr.Type == diagCgroupID && len(a.Value) >= 8 {
			return binary.NativeEndian.Uint64(a.Value)
		}
	}
	return 0
}

// hooked lists the cgroups whose sockets pass the socket programs; nil: any.
func (d *diag) hooked() (map[uint64]struct{}, error) {
	if d.cgroup == "" {
		return nil, nil
	}
	ids := map[uint64]struct{}{}
	err := filepath.WalkDir(d.cgroup, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // removed meanwhile
			return nil
		}
		if err != nil || !entry.IsDir() {
			return err
		}
		id, err := cgroupID(path)
		if err == nil {
			ids[id] = struct{}{}
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the cgroups below %s: %w", d.cgroup, err)
	}
	return ids, nil
}

// decide runs the same program code as the iterators.
func (d *diag) decide(socket found, hooked map[uint64]struct{}, origins map[uint64]bpf.SocketsSocketState) (bpf.SocketsVerdict, error) {
	question := bpf.SocketsConnectedSocket{Peer: endpointOf(socket.target)}
	cookie := uint64(socket.id.cookie[0]) | uint64(socket.id.cookie[1])<<32
	if origin, ok := origins[cookie]; ok {
		question.Origin, question.Remembered = origin, 1
	}
	if socket.ifDown {
		question.IfNodeDown = 1
	}
	answer := question
	if _, err := d.judge.Run(&ebpf.RunOptions{Context: question, ContextOut: &answer}); err != nil {
		return 0, fmt.Errorf("judge a socket connected to %s: %w", socket.target, err)
	}
	_, inside := hooked[socket.cgroup]
	switch {
	case answer.Verdict == bpf.SocketsVerdictVERDICT_OTHER:
		return answer.Verdict, nil
	case hooked != nil && !inside:
		return bpf.SocketsVerdictVERDICT_OUTSIDE, nil
	case answer.Verdict == bpf.SocketsVerdictVERDICT_STALE && socket.target.Protocol == service.TCP &&
		socket.target.Connecting && socket.state != tcpSynSent:
		return bpf.SocketsVerdictVERDICT_ALIVE, nil
	}
	return answer.Verdict, nil
}

func destroy(socket found) bpf.SocketsVerdict {
	request := nl.NewNetlinkRequest(sockDestroy, unix.NLM_F_ACK)
	request.AddData(&diagRequest{
		family:   socket.family,
		protocol: uint8(socket.target.Protocol),
		states:   allStates,
		id:       socket.id,
	})
	_, err := request.Execute(unix.NETLINK_INET_DIAG, 0)
	switch {
	case err == nil:
		return bpf.SocketsVerdictVERDICT_STALE
	case errors.Is(err, unix.ENOENT): // its owner closed it meanwhile
		return bpf.SocketsVerdictVERDICT_OTHER
	}
	return bpf.SocketsVerdictVERDICT_REFUSED
}
