package reach

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/durable"
	"github.com/skep-io/skep/witness"
)

// author makes this node's statements: it has its key, and a sequence that grows across restarts, whatever the clock says.
type author struct {
	node string
	key  ed25519.PrivateKey

	mu   sync.Mutex
	next uint64
}

// startShift makes room for as many statements between two starts.
const startShift = 32

// openAuthor reads the key and the number of this start from a folder, and makes what is missing. Files that cannot be read are made
// anew: with another key, statements of before do not count.
func openAuthor(node, dir string, now time.Time) (*author, error) {
	seed, err := readFile(filepath.Join(dir, "witness-key"), ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	if seed == nil {
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			return nil, err
		}
		seed = key.Seed()
		if err := durable.WriteFile(filepath.Join(dir, "witness-key"), seed, 0o600); err != nil {
			return nil, fmt.Errorf("key of statements: %w", err)
		}
	}
	path := filepath.Join(dir, "witness-start")
	last, err := readFile(path, 8)
	if err != nil {
		return nil, err
	}
	start := uint64(now.Unix()) // also greater than any before if the file is lost
	if last != nil {
		start = max(start, binary.BigEndian.Uint64(last)+1)
	}
	if err := durable.WriteFile(path, binary.BigEndian.AppendUint64(nil, start), 0o600); err != nil {
		return nil, fmt.Errorf("sequence of statements: %w", err)
	}
	return &author{node: node, key: ed25519.NewKeyFromSeed(seed), next: start << startShift}, nil
}

// readFile returns nil if there is no file, or none of that size.
func readFile(path string, size int) ([]byte, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(data) != size {
		return nil, nil
	}
	return data, err
}

// public is the key as the Node object has it.
func (a *author) public() string {
	return base64.StdEncoding.EncodeToString(a.key.Public().(ed25519.PublicKey))
}

// state signs what this node finds.
func (a *author) state(f finding, now time.Time) (skepv1.Statement, error) {
	a.mu.Lock()
	a.next++
	sequence := a.next
	a.mu.Unlock()
	return witness.Sign(a.key, skepv1.Statement{
		Witness: a.node, Subject: f.node, Reachable: f.reachable, Since: f.since.Round(0), At: now.Round(0), Sequence: sequence,
	})
}
