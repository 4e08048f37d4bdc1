package eviction

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Observation is how much of a signal's resource is available, and the total: bytes, inodes or processes.
type Observation struct{ Available, Capacity int64 }

// Observations are those of one moment. A signal that could not be measured is missing, and its thresholds count as not met.
type Observations map[Signal]Observation

// Conditions of the node that signals stand for, in the order in which they are named.
var Conditions = []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure}

func (s Signal) condition() corev1.NodeConditionType {
	switch s {
	case MemoryAvailable, AllocatableMemory:
		return corev1.NodeMemoryPressure
	case PIDAvailable:
		return corev1.NodePIDPressure
	}
	return corev1.NodeDiskPressure
}

func (s Signal) aboutDisk() bool { return s.condition() == corev1.NodeDiskPressure }

// met says whether less is available than the threshold, or than the threshold plus MinReclaim if withReclaim is set.
func (t Threshold) met(o Observations, withReclaim bool) bool {
	seen, ok := o[t.Signal]
	if !ok {
		return false
	}
	least := t.Value.Of(seen.Capacity)
	if withReclaim {
		least += t.MinReclaim.Of(seen.Capacity)
	}
	return seen.Available < least
}

// anyMet says whether a threshold plus its MinReclaim is met.
func anyMet(thresholds []Threshold, o Observations) bool {
	return slices.ContainsFunc(thresholds, func(t Threshold) bool { return t.met(o, true) })
}

// Pressure derives conditions and due thresholds from observations over time.
type Pressure struct {
	thresholds []Threshold
	transition time.Duration // how long a condition is kept after its thresholds were last met

	since map[Threshold]time.Time                // when thresholds that are met were first met
	due   []Threshold                            // as last returned: they stay met until MinReclaim is available too
	seen  map[corev1.NodeConditionType]time.Time // when a threshold of the condition was last met
}

// NewPressure returns a Pressure with no threshold met.
func NewPressure(thresholds []Threshold, transition time.Duration) *Pressure {
	return &Pressure{
		thresholds: thresholds, transition: transition,
		since: map[Threshold]time.Time{}, seen: map[corev1.NodeConditionType]time.Time{},
	}
}

// Observe returns the node's conditions, and the thresholds that have been met for their grace period: those of memory first,
// since it runs out soonest, then as they were configured.
func (p *Pressure) Observe(now time.Time, o Observations) (conditions []corev1.NodeConditionType, due []Threshold) {
	since := map[Threshold]time.Time{}
	for _, t := range p.thresholds {
		if !t.met(o, false) && !(slices.Contains(p.due, t) && t.met(o, true)) {
			continue
		}
		first, known := p.since[t]
		if !known {
			first = now
		}
		since[t] = first
		p.seen[t.Signal.condition()] = now
		if now.Sub(first) >= t.Grace {
			due = append(due, t)
		}
	}
	slices.SortStableFunc(due, func(a, b Threshold) int { return rankOf(a.Signal) - rankOf(b.Signal) })
	p.since, p.due = since, due
	for _, kind := range Conditions {
		if at, ever := p.seen[kind]; ever && (at.Equal(now) || now.Sub(at) < p.transition) {
			conditions = append(conditions, kind)
		}
	}
	return conditions, due
}

func rankOf(s Signal) int {
	if s.condition() == corev1.NodeMemoryPressure {
		return 0
	}
	return 1
}
