package flow

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/bits"
	"net/netip"

	"github.com/skep-io/skep/bpf"
)

// ProbePort is the UDP port at which the program at the uplink answers other nodes' probes; what else comes to that port reaches
// the host's sockets.
const ProbePort = uint16(bpf.UplinkProbeFormatPROBE_PORT)

// ProbeKeySize is the length of a ProbeKey in bytes.
const ProbeKeySize = 16

// ProbeKey authenticates probes and their answers, by SipHash-2-4. All nodes of a cluster have the same, and nobody else. It is not
// printed.
type ProbeKey [ProbeKeySize]byte

func (ProbeKey) String() string       { return "(secret)" }
func (ProbeKey) GoString() string     { return "(secret)" }
func (ProbeKey) LogValue() slog.Value { return slog.StringValue("(secret)") }

// SetProbeKey makes the uplinks answer probes that were made with the key, from the addresses that the plane has of other nodes.
func (f *Flows) SetProbeKey(key ProbeKey) error {
	value := bpf.UplinkProbeKey{Port: bpf.UplinkProbeFormatPROBE_PORT}
	value.Half[0], value.Half[1] = key.halves()
	if err := f.maps.probeKey.Put(0, value); err != nil {
		return fmt.Errorf("key of probes: %w", err)
	}
	return nil
}

// probeSize is the length of struct probe: magic, kind, padding, nonce, MAC.
const probeSize = 24

// AppendProbe appends a probe that is sent from one address and port to another.
func (k ProbeKey) AppendProbe(to []byte, nonce uint64, source, destination netip.AddrPort) []byte {
	at := len(to)
	to = binary.BigEndian.AppendUint32(to, uint32(bpf.UplinkProbeFormatPROBE_MAGIC))
	to = append(to, byte(bpf.UplinkProbeFormatPROBE_REQUEST), 0, 0, 0)
	to = binary.LittleEndian.AppendUint64(to, nonce)
	return binary.LittleEndian.AppendUint64(to, k.probeMAC(to[at:], source, destination))
}

// ParseAnswer returns the nonce of the probe that the datagram answers; false: it is no answer of a node, from one address and port to
// the other.
func (k ProbeKey) ParseAnswer(data []byte, source, destination netip.AddrPort) (nonce uint64, ok bool) {
	if len(data) != probeSize || binary.BigEndian.Uint32(data) != uint32(bpf.UplinkProbeFormatPROBE_MAGIC) ||
		data[4] != byte(bpf.UplinkProbeFormatPROBE_ANSWER) {
		return 0, false
	}
	return binary.LittleEndian.Uint64(data[8:]), binary.LittleEndian.Uint64(data[16:]) == k.probeMAC(data[:16], source, destination)
}

// probeMAC is over the probe up to its MAC, then addresses and ports, as C has them in enum probe_words.
func (k ProbeKey) probeMAC(probe []byte, source, destination netip.AddrPort) uint64 {
	message := make([]byte, 0, 56)
	message = append(message, probe...)
	for _, end := range []netip.AddrPort{source, destination} {
		addr := end.Addr().As16()
		message = append(message, addr[:]...)
	}
	message = binary.BigEndian.AppendUint16(message, source.Port())
	message = binary.BigEndian.AppendUint16(message, destination.Port())
	return k.Sum(append(message, 0, 0, 0, 0))
}

func (k ProbeKey) halves() (low, high uint64) {
	return binary.LittleEndian.Uint64(k[:8]), binary.LittleEndian.Uint64(k[8:])
}

// Sum is the message's SipHash-2-4 (Aumasson and Bernstein, 2012).
func (k ProbeKey) Sum(message []byte) uint64 {
	low, high := k.halves()
	s := sipState{low ^ 0x736f6d6570736575, high ^ 0x646f72616e646f6d, low ^ 0x6c7967656e657261, high ^ 0x7465646279746573}
	length := len(message)
	for ; len(message) >= 8; message = message[8:] {
		s.add(binary.LittleEndian.Uint64(message))
	}
	var last [8]byte
	copy(last[:], message)
	last[7] = byte(length)
	s.add(binary.LittleEndian.Uint64(last[:]))
	s[2] ^= 0xff
	for range 4 {
		s.round()
	}
	return s[0] ^ s[1] ^ s[2] ^ s[3]
}

type sipState [4]uint64

func (s *sipState) add(word uint64) {
	s[3] ^= word
	s.round()
	s.round()
	s[0] ^= word
}

func (s *sipState) round() {
	s[0] += s[1]
	s[1] = bits.RotateLeft64(s[1], 13) ^ s[0]
	s[0] = bits.RotateLeft64(s[0], 32)
	s[2] += s[3]
	s[3] = bits.RotateLeft64(s[3], 16) ^ s[2]
	s[0] += s[3]
	s[3] = bits.RotateLeft64(s[3], 21) ^ s[0]
	s[2] += s[1]
	s[1] = bits.RotateLeft64(s[1], 17) ^ s[2]
	s[2] = bits.RotateLeft64(s[2], 32)
}
