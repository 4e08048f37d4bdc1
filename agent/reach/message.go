package reach

import (
	"encoding/binary"
	"errors"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/dataplane/flow"
	"github.com/skep-io/skep/witness"
)

// A datagram between agents: magic, statements in binary form, and a SipHash of all that with the nodes' key, so that nobody else can make
// a node verify signatures.
const (
	magic    = "skst"
	macSize  = 8
	mostSize = 1200 // fits into the smallest IPv6 packet
)

var errMessage = errors.New("not a message of a node of this cluster")

// messages packs statements into as few datagrams as they fit in.
func messages(key flow.ProbeKey, statements []skepv1.Statement) (datagrams [][]byte, err error) {
	data := []byte(magic)
	for _, s := range statements {
		longer, err := witness.AppendStatement(data, s)
		if err != nil {
			return nil, err
		}
		if len(longer)+macSize > mostSize {
			datagrams = append(datagrams, seal(key, data))
			if longer, err = witness.AppendStatement([]byte(magic), s); err != nil {
				return nil, err
			}
		}
		data = longer
	}
	if len(data) > len(magic) {
		datagrams = append(datagrams, seal(key, data))
	}
	return datagrams, nil
}

func seal(key flow.ProbeKey, data []byte) []byte {
	return binary.LittleEndian.AppendUint64(data[:len(data):len(data)], key.Sum(data))
}

// parseMessage returns the statements of a datagram, whose signatures are not verified yet.
func parseMessage(key flow.ProbeKey, data []byte) (statements []skepv1.Statement, err error) {
	end := len(data) - macSize
	if end < len(magic) || string(data[:len(magic)]) != magic || binary.LittleEndian.Uint64(data[end:]) != key.Sum(data[:end]) {
		return nil, errMessage
	}
	for data = data[len(magic):end]; len(data) > 0; {
		var s skepv1.Statement
		if s, data, err = witness.ParseStatement(data); err != nil {
			return nil, err
		}
		statements = append(statements, s)
	}
	return statements, nil
}
