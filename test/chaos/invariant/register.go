// Package invariant says whether what was seen of a cluster during faults could be seen of one that keeps its promises. It only judges
// recorded histories: it asks and disturbs nothing.
package invariant

import (
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// Op is what a client asked of one key.
type Op int

const (
	Read  Op = iota
	Write    // whatever the value was before
	Swap     // only if the value is what the client read before, by the revision
)

// Operation is one request for a key and its answer. Each value is written once. Requests that were certainly not carried out are left out.
type Operation struct {
	Client     int
	Key        string
	Op         Op
	Value      string // that was read, or is to be written
	Before     string // Swap: what the client read
	Call       time.Time
	Return     time.Time // zero: there was no answer, so the request may have been carried out, or still be
	AnsweredBy string    // for people
}

func (o Operation) String() string {
	text := map[Op]string{Read: "reads ", Write: "writes ", Swap: "has " + o.Before + " replaced by "}[o.Op] + o.Value
	if o.Return.IsZero() {
		text += ", without an answer"
	} else {
		text += fmt.Sprintf(", answered after %.3fs", o.Return.Sub(o.Call).Seconds())
	}
	return fmt.Sprintf("%s client %d %s (%s)", o.Call.Format("15:04:05.000"), o.Client, text, o.AnsweredBy)
}

// Registers is the history of the keys.
type Registers struct {
	mu  sync.Mutex
	ops map[string][]Operation
}

// Add records an operation.
func (r *Registers) Add(o Operation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ops == nil {
		r.ops = map[string][]Operation{}
	}
	r.ops[o.Key] = append(r.ops[o.Key], o)
}

// Counts are how many operations were answered and how many were not.
func (r *Registers) Counts() (answered, unanswered int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, ops := range r.ops {
		for _, o := range ops {
			if o.Return.IsZero() {
				unanswered++
			} else {
				answered++
			}
		}
	}
	return answered, unanswered
}

// register is one key: operations take effect one after the other, each between its call and its answer.
var register = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, _ any) (bool, any) {
		o := input.(Operation)
		switch o.Op {
		case Read:
			return state == o.Value, state
		case Swap:
			if state != o.Before {
				// It was not carried out, which only a request without an answer can be.
				return o.Return.IsZero(), state
			}
		}
		return true, o.Value
	},
	Equal: func(a, b any) bool { return a == b },
}

// Linearizable says of which keys the history cannot be that of a register, and shows a part of it. An answer takes at most patience
// a key, after which the key is undecided, which is a violation as well: nothing was shown.
func (r *Registers) Linearizable(patience time.Duration) (violations []error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, ops := range r.ops {
		ops = effective(ops)
		history := make([]porcupine.Operation, len(ops))
		for i, o := range ops {
			end := int64(math.MaxInt64)
			if !o.Return.IsZero() {
				end = o.Return.UnixNano()
			}
			history[i] = porcupine.Operation{ClientId: o.Client, Input: o, Call: o.Call.UnixNano(), Return: end}
		}
		result, info := porcupine.CheckOperationsVerbose(register, history, patience)
		switch result {
		case porcupine.Illegal:
			violations = append(violations, fmt.Errorf("the operations on %s are not those of a register; around the first that fits none:\n%s", key, around(ops, info)))
		case porcupine.Unknown:
			violations = append(violations, fmt.Errorf("within %s it was not decided whether the %d operations on %s are those of a register", patience, len(ops), key))
		}
	}
	return violations
}

// effective leaves out writes without an answer whose value nobody has seen: they may come after all else, whatever happened.
func effective(ops []Operation) []Operation {
	seen := map[string]bool{}
	for _, o := range ops {
		if o.Op == Read {
			seen[o.Value] = true
		}
		if o.Op == Swap {
			seen[o.Before] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(ops), func(o Operation) bool { return o.Return.IsZero() && (o.Op == Read || !seen[o.Value]) })
}

// around is the part of the history at the end of the longest order that could be found.
func around(ops []Operation, info porcupine.LinearizationInfo) (text string) {
	longest := 0
	for _, partition := range info.PartialLinearizations() {
		for _, order := range partition {
			longest = max(longest, len(order))
		}
	}
	slices.SortFunc(ops, func(a, b Operation) int { return a.Call.Compare(b.Call) })
	for _, o := range ops[max(0, longest-15):min(len(ops), longest+15)] {
		text += "  " + o.String() + "\n"
	}
	return text
}
