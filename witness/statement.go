package witness

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	skepv1 "github.com/skep-io/skep/api/v1"
)

// domain keeps a signature from being valid for anything but a statement.
const domain = "skep statement 1\x00"

// Sizes of the binary form: it has each name behind its length, a byte for Reachable, Since, At, Sequence, and the signature.
const (
	longestName = math.MaxUint8
	fixedSize   = 1 + 3*8
	// LargestStatement is how many bytes the binary form has at most.
	LargestStatement = 2*(1+longestName) + fixedSize + ed25519.SignatureSize
)

// Sign returns the statement with its signature.
func Sign(key ed25519.PrivateKey, s skepv1.Statement) (skepv1.Statement, error) {
	body, err := appendBody([]byte(domain), s)
	if err != nil {
		return s, err
	}
	s.Signature = ed25519.Sign(key, body)
	return s, nil
}

// Verify says whether the statement was signed with the key's private half, as it is.
func Verify(key ed25519.PublicKey, s skepv1.Statement) bool {
	body, err := appendBody([]byte(domain), s)
	return err == nil && len(key) == ed25519.PublicKeySize && ed25519.Verify(key, body, s.Signature)
}

// AppendStatement appends the binary form of a signed statement.
func AppendStatement(to []byte, s skepv1.Statement) ([]byte, error) {
	if len(s.Signature) != ed25519.SignatureSize {
		return to, fmt.Errorf("statement of %s about %s: signature of %d bytes, want %d", s.Witness, s.Subject, len(s.Signature), ed25519.SignatureSize)
	}
	body, err := appendBody(to, s)
	if err != nil {
		return to, err
	}
	return append(body, s.Signature...), nil
}

var errTruncated = errors.New("statement is truncated or malformed")

// ParseStatement reads one statement from the beginning of data, and returns the rest. It does not verify the signature.
func ParseStatement(data []byte) (s skepv1.Statement, rest []byte, err error) {
	for _, name := range []*string{&s.Witness, &s.Subject} {
		if len(data) == 0 || len(data) < 1+int(data[0]) {
			return s, nil, errTruncated
		}
		*name, data = string(data[1:1+data[0]]), data[1+data[0]:]
	}
	if len(data) < fixedSize+ed25519.SignatureSize || data[0] > 1 {
		return s, nil, errTruncated
	}
	s.Reachable = data[0] == 1
	s.Since = time.Unix(0, int64(binary.BigEndian.Uint64(data[1:])))
	s.At = time.Unix(0, int64(binary.BigEndian.Uint64(data[9:])))
	s.Sequence = binary.BigEndian.Uint64(data[17:])
	s.Signature = append([]byte(nil), data[fixedSize:fixedSize+ed25519.SignatureSize]...)
	return s, data[fixedSize+ed25519.SignatureSize:], nil
}

func appendBody(to []byte, s skepv1.Statement) ([]byte, error) {
	for _, name := range []string{s.Witness, s.Subject} {
		if name == "" || len(name) > longestName {
			return to, fmt.Errorf("statement of %q about %q: a node's name has 1 to %d bytes", s.Witness, s.Subject, longestName)
		}
		to = append(append(to, byte(len(name))), name...)
	}
	reachable := byte(0)
	if s.Reachable {
		reachable = 1
	}
	to = append(to, reachable)
	to = binary.BigEndian.AppendUint64(to, uint64(s.Since.UnixNano()))
	to = binary.BigEndian.AppendUint64(to, uint64(s.At.UnixNano()))
	return binary.BigEndian.AppendUint64(to, s.Sequence), nil
}
