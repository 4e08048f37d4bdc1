package probe

import (
	"context"
	"io"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// comesUp is a target that fails a number of times and then succeeds.
func comesUp(after int64, asked *atomic.Int64) Target {
	return Target{Exec: func(context.Context, []string, io.Writer) (int, error) {
		if asked.Add(1) <= after {
			return 1, nil
		}
		return 0, nil
	}}
}

func execProbe(period int32) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"ask"}}},
		PeriodSeconds: period,
	}
}

// A program that listens a moment after its start is found long before the next period.
func TestReadinessSettlesWithinThePeriod(t *testing.T) {
	for _, kind := range []Kind{Readiness, Startup} {
		t.Run(string(kind), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			var asked atomic.Int64
			var reports []Report
			Watch(ctx, kind, execProbe(60), comesUp(3, &asked), time.Now(), false, func(r Report) {
				if reports = append(reports, r); r.OK {
					cancel()
				}
			})
			if len(reports) != 2 || reports[0].Outcome.OK || !reports[1].Outcome.OK || !reports[1].Changed {
				t.Fatalf("reports %+v: want the first failure and then the success that changes the answer", reports)
			}
			if n := asked.Load(); n != 4 {
				t.Errorf("asked %d times, want 4", n)
			}
		})
	}
}

// What never comes up is counted once a period, whatever was asked in between.
func TestSettlingKeepsThresholds(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var asked atomic.Int64
	p := execProbe(1)
	p.FailureThreshold = 2
	begin := time.Now()
	var failures int
	Watch(ctx, Startup, p, comesUp(1<<40, &asked), begin, false, func(r Report) { failures++ })
	if took := time.Since(begin); failures != 2 || took < time.Second {
		t.Errorf("given up after %d failures and %v, want 2 and at least the period of 1 s", failures, took)
	}
}

// Liveness, and the readiness of a container that is ready already, are asked once a period.
func TestOthersAreNotHurried(t *testing.T) {
	for _, test := range []struct {
		kind    Kind
		initial bool
	}{{Liveness, false}, {Readiness, true}} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		var asked atomic.Int64
		Watch(ctx, test.kind, execProbe(60), comesUp(1<<40, &asked), time.Now(), test.initial, func(Report) {})
		cancel()
		if n := asked.Load(); n != 1 {
			t.Errorf("%s from %v: asked %d times within a period, want once", test.kind, test.initial, n)
		}
	}
}
