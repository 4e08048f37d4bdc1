package witness

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	skepv1 "github.com/skep-io/skep/api/v1"
)

// Why a statement does not count.
var (
	// ErrKnown: this statement or a later one of the same witness about the same subject is known already.
	ErrKnown      = errors.New("known already")
	ErrNotWatcher = errors.New("the witness does not watch the subject")
	ErrStale      = errors.New("made too long ago, or in the future: the clocks of nodes must not differ by more than " + Validity.String())
	ErrSignature  = errors.New("not signed with the witness's key")
)

// Change says that a verdict was reached or fell.
type Change struct {
	Node string
	// Down: Needed or more of its watchers cannot reach it.
	Down bool
	// Since is the earliest time since which one of them cannot, by its own clock; zero if not Down.
	Since time.Time
	// Evidence is the statements that count, of all watchers, by their names.
	Evidence []skepv1.Statement
}

// Verdicts collects statements. It is not safe for concurrent use.
//
// Only the last statement of each watcher about each subject counts, for Validity since it was received, and as long as the ring makes
// the witness a watcher. Nobody is down by old or forged statements, or by fewer than Needed witnesses.
type Verdicts struct {
	ring  *Ring
	nodes map[string]Node
	heard map[pair]heard
	down  map[string]bool
}

type pair struct{ subject, witness string }

type heard struct {
	statement skepv1.Statement
	at        time.Time
}

// NewVerdicts returns a collection without nodes: SetNodes comes first.
func NewVerdicts() *Verdicts {
	return &Verdicts{ring: NewRing(nil), nodes: map[string]Node{}, heard: map[pair]heard{}, down: map[string]bool{}}
}

// Ring returns the ring of the nodes that were set last.
func (v *Verdicts) Ring() *Ring { return v.ring }

// SetNodes replaces the nodes. Statements of nodes that are no watchers any more stop counting.
func (v *Verdicts) SetNodes(nodes []Node, now time.Time) []Change {
	v.ring = NewRing(nodes)
	v.nodes = make(map[string]Node, len(nodes))
	for _, n := range nodes {
		v.nodes[n.Name] = n
	}
	return v.Expire(now)
}

// Add takes a statement. Nil: no verdict changed. Cheap checks come first, so that what is sent again and again costs no signature.
func (v *Verdicts) Add(s skepv1.Statement, now time.Time) (*Change, error) {
	key := pair{s.Subject, s.Witness}
	if known, ok := v.heard[key]; ok && s.Sequence <= known.statement.Sequence {
		return nil, ErrKnown
	}
	if err := v.check(s, now); err != nil {
		return nil, fmt.Errorf("statement of %s about %s: %w", s.Witness, s.Subject, err)
	}
	v.heard[key] = heard{s, now}
	return v.judge(s.Subject, now), nil
}

func (v *Verdicts) check(s skepv1.Statement, now time.Time) error {
	if !v.ring.IsWatcher(s.Witness, s.Subject) {
		return ErrNotWatcher
	}
	if age := now.Sub(s.At); age > Validity || age < -Validity {
		return ErrStale
	}
	if !Verify(v.nodes[s.Witness].Key, s) {
		return ErrSignature
	}
	return nil
}

// Expire forgets statements that are older than Validity. Call it about once a second.
func (v *Verdicts) Expire(now time.Time) (changes []Change) {
	subjects := map[string]bool{}
	for key, h := range v.heard {
		subjects[key.subject] = true
		// As long again, its sequence keeps those from counting that came before it and are not stale yet.
		if now.Sub(h.at) > 2*Validity {
			delete(v.heard, key)
		}
	}
	for subject := range v.down {
		subjects[subject] = true
	}
	for subject := range subjects {
		if c := v.judge(subject, now); c != nil {
			changes = append(changes, *c)
		}
	}
	slices.SortFunc(changes, func(a, b Change) int { return cmp.Compare(a.Node, b.Node) })
	return changes
}

// judge returns the change, if the subject's verdict is not what it was.
func (v *Verdicts) judge(subject string, now time.Time) *Change {
	c := v.Verdict(subject, now)
	if c.Down == v.down[subject] {
		return nil
	}
	if c.Down {
		v.down[subject] = true
	} else {
		delete(v.down, subject)
	}
	return &c
}

// Verdict says what the statements that count now say about a node.
func (v *Verdicts) Verdict(subject string, now time.Time) Change {
	c := Change{Node: subject}
	against := 0
	for _, witness := range v.ring.Watchers(subject) {
		h, ok := v.heard[pair{subject, witness}]
		if !ok || now.Sub(h.at) > Validity {
			continue
		}
		c.Evidence = append(c.Evidence, h.statement)
		if h.statement.Reachable {
			continue
		}
		against++
		if c.Since.IsZero() || h.statement.Since.Before(c.Since) {
			c.Since = h.statement.Since
		}
	}
	if c.Down = against >= Needed; !c.Down {
		c.Since = time.Time{}
	}
	slices.SortFunc(c.Evidence, func(a, b skepv1.Statement) int { return cmp.Compare(a.Witness, b.Witness) })
	return c
}

// IsDown says whether there is a verdict against the node, as of the last call that returned changes.
func (v *Verdicts) IsDown(node string) bool { return v.down[node] }

// Down returns the nodes against which there is a verdict, in order of their names.
func (v *Verdicts) Down() (nodes []string) {
	for name := range v.down {
		nodes = append(nodes, name)
	}
	slices.Sort(nodes)
	return nodes
}
