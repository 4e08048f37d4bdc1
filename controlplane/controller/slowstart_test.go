package controller_test

import (
	"errors"
	"sync/atomic"
	"testing"

	"github.com/skep-io/skep/controlplane/controller"
)

// As Kubernetes' slowStartBatch with a first batch of one: no batch after one with a failure.
func TestSlowStart(t *testing.T) {
	refused := errors.New("exceeded quota")
	for _, tt := range []struct{ n, fine, calls, succeeded int }{
		{n: 0, fine: 0, calls: 0, succeeded: 0},
		{n: 1, fine: 1, calls: 1, succeeded: 1},
		{n: 10, fine: 10, calls: 10, succeeded: 10},
		{n: 500, fine: 0, calls: 1, succeeded: 0},
		{n: 500, fine: 1, calls: 3, succeeded: 1},
		{n: 500, fine: 3, calls: 7, succeeded: 3},
		{n: 500, fine: 5, calls: 7, succeeded: 5}, // the third batch of four, two of which fail
		{n: 6, fine: 5, calls: 6, succeeded: 5},   // the last batch is the rest
	} {
		var calls atomic.Int64
		succeeded, err := controller.SlowStart(tt.n, func() error {
			if calls.Add(1) > int64(tt.fine) {
				return refused
			}
			return nil
		})
		if int(calls.Load()) != tt.calls || succeeded != tt.succeeded {
			t.Errorf("%d of which %d are accepted: %d calls, %d succeeded, want %d and %d", tt.n, tt.fine, calls.Load(), succeeded, tt.calls, tt.succeeded)
		}
		if (err != nil) != (tt.succeeded < tt.n) || err != nil && err != refused {
			t.Errorf("%d of which %d are accepted: %v, want one refusal", tt.n, tt.fine, err)
		}
	}
}
