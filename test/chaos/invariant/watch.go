package invariant

import (
	"fmt"
	"slices"
	"sync"
)

// Events is what one watch received, resumed where it ended, over any servers.
type Events struct {
	Name string // for people

	mu        sync.Mutex
	revisions []uint64
	gaps      [][2]uint64
}

// Gap records that the watch could not be resumed after a revision, and went on from a list of another, which 410 Gone asks for.
func (e *Events) Gap(after, to uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gaps = append(e.gaps, [2]uint64{after, to})
}

// Gaps is how often that was so.
func (e *Events) Gaps() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.gaps)
}

// Add records the revision of an event.
func (e *Events) Add(revision uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.revisions = append(e.revisions, revision)
}

// Last is the revision of the last event.
func (e *Events) Last() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.revisions) == 0 {
		return 0
	}
	return e.revisions[len(e.revisions)-1]
}

// Complete says which of the acknowledged writes, given by their revisions, the watch did not receive, and where its events were not in
// the order of their revisions.
func (e *Events) Complete(acknowledged []uint64) (violations []error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := 1; i < len(e.revisions); i++ {
		if e.revisions[i] <= e.revisions[i-1] {
			violations = append(violations, fmt.Errorf("watch %s: revision %d came after %d", e.Name, e.revisions[i], e.revisions[i-1]))
		}
	}
	received := slices.Clone(e.revisions)
	slices.Sort(received)
	var missing []uint64
	for _, revision := range acknowledged {
		excused := slices.ContainsFunc(e.gaps, func(gap [2]uint64) bool { return revision > gap[0] && revision <= gap[1] })
		if _, ok := slices.BinarySearch(received, revision); !ok && !excused {
			missing = append(missing, revision)
		}
	}
	if len(missing) > 0 {
		violations = append(violations, fmt.Errorf("watch %s: of %d acknowledged writes, those of the revisions %v were not received", e.Name, len(acknowledged), missing))
	}
	return violations
}
