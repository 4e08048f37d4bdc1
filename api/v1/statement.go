package v1

import (
	"strings"
	"time"
)

// Statement is what one node, the witness, says of another, the subject, that it probes. It is signed with the witness's key, which the
// witness publishes at its Node object; package witness signs and verifies.
type Statement struct {
	Witness string `json:"witness"`
	Subject string `json:"subject"`
	// Reachable is false for "the witness cannot reach the subject since Since", and true for "the witness reaches it again".
	Reachable bool `json:"reachable"`
	// Since is when the state began by the witness's clock: the first probe of those in a row that were lost, or answered.
	Since time.Time `json:"since"`
	// At is when the statement was made, by the witness's clock.
	At time.Time `json:"at"`
	// Sequence grows with every statement of the witness, also across its restarts.
	Sequence uint64 `json:"sequence,string"`
	// Signature is Ed25519's over all other fields.
	Signature []byte `json:"signature"`
}

// PathStatements is the API server's path that accepts a node's statements and those that it heard from others, as a JSON list of
// Statement (POST). The node is the one whose agent sends.
func PathStatements(node string) string { return statementsPrefix + node + statementsSuffix }

const (
	statementsPrefix = "/skep/v1/nodes/"
	statementsSuffix = "/statements"
)

// NodeOfStatements returns the node that a PathStatements is of.
func NodeOfStatements(path string) (node string, ok bool) {
	node, ok = strings.CutPrefix(path, statementsPrefix)
	if ok {
		node, ok = strings.CutSuffix(node, statementsSuffix)
	}
	return node, ok && node != "" && !strings.Contains(node, "/")
}
