package probe

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Kind of a probe.
type Kind string

// The three kinds, as events name them.
const (
	Liveness  Kind = "Liveness"
	Readiness Kind = "Readiness"
	Startup   Kind = "Startup"
)

// Report is a report of a Watch. Every outcome is reported; Changed is true when the thresholds
// give a new result, OK.
type Report struct {
	Kind    Kind
	Outcome Outcome
	Took    time.Duration // of the attempt
	Changed bool
	OK      bool
}

// attempts is how often an attempt that could not be made is tried before it counts.
const attempts = 3

// Watch probes until ctx ends, until a startup probe has its first result, or until a liveness
// probe reaches its failure threshold: the container is then stopped, and the next one has its own
// Watch. initial is the first result: readiness and startup begin as not met, except that an agent
// that adopts a ready container begins with ready, so that its restart changes nothing.
func Watch(ctx context.Context, kind Kind, p *corev1.Probe, t Target, startedAt time.Time, initial bool, report func(Report)) {
	timer := time.NewTimer(time.Until(startedAt.Add(time.Duration(p.InitialDelaySeconds) * time.Second)))
	defer timer.Stop()
	count := counter{success: max(p.SuccessThreshold, 1), failure: max(p.FailureThreshold, 1), answer: initial, settled: initial || kind == Liveness}
	if kind == Liveness {
		count.answer = true
	}
	if p.FailureThreshold == 0 {
		count.failure = 3
	}
	period := time.Duration(p.PeriodSeconds) * time.Second
	if period <= 0 {
		period = 10 * time.Second
	}
	first := true
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		began := time.Now()
		outcome := attemptRepeated(ctx, p, t)
		if ctx.Err() != nil {
			return // an interrupted attempt has no result
		}
		if !outcome.OK && first && kind != Liveness && !initial {
			report(Report{Kind: kind, Outcome: outcome, Took: time.Since(began), Changed: count.add(false), OK: count.answer})
			if outcome, began = settle(ctx, p, t, began.Add(period)); ctx.Err() != nil {
				return
			}
		}
		first = false
		changed := count.add(outcome.OK)
		report(Report{Kind: kind, Outcome: outcome, Took: time.Since(began), Changed: changed, OK: count.answer})
		if changed && (kind == Startup || kind == Liveness && !count.answer) {
			return
		}
		timer.Reset(time.Until(began.Add(period)))
	}
}

// settleFirst is the pause before the first additional attempt of settle; the pauses double.
const settleFirst = 20 * time.Millisecond

// settle repeats the attempt on a container that has just been started until the next one is due:
// programs listen a moment after their start, and would otherwise be added to their services a
// whole period later. Failures before the last attempt do not count, so thresholds mean what they
// mean in Kubernetes. It returns when the last attempt began, too.
func settle(ctx context.Context, p *corev1.Probe, t Target, due time.Time) (outcome Outcome, began time.Time) {
	for pause := settleFirst; ; pause *= 2 {
		last := !time.Now().Add(pause).Before(due)
		if last {
			pause = time.Until(due)
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return Outcome{}, began
		case <-timer.C:
		}
		began = time.Now()
		if outcome = attemptRepeated(ctx, p, t); outcome.OK || last {
			return outcome, began
		}
	}
}

func attemptRepeated(ctx context.Context, p *corev1.Probe, t Target) Outcome {
	var outcome Outcome
	for range attempts {
		if outcome = Attempt(ctx, p, t); outcome.Err == nil {
			return outcome
		}
	}
	return outcome
}

// counter turns consecutive outcomes into a result by the thresholds. settled says whether a
// threshold was ever reached; the first time one is, the result counts as changed even if it is the
// same.
type counter struct {
	success, failure int32
	answer, settled  bool

	last bool
	row  int32
}

func (c *counter) add(ok bool) (changed bool) {
	if ok != c.last || c.row == 0 {
		c.last, c.row = ok, 0
	}
	c.row++
	threshold := c.success
	if !ok {
		threshold = c.failure
	}
	if c.row < threshold || c.settled && c.answer == ok {
		return false
	}
	c.answer, c.settled = ok, true
	return true
}
