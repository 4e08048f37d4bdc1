package controller_test

import (
	"context"
	"errors"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skep-io/skep/controlplane/controller"
)

// Work that fails is counted as retries of its queue, under the name that Kubernetes gives the metric.
func TestRetriesAreCounted(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	q := controller.NewQueue[string](t.Name())
	q.Add("key")
	tries := 0
	q.Run(ctx, 1, func(context.Context, string) error {
		if tries++; tries == 3 {
			stop()
			return nil
		}
		return errors.New("not yet")
	})
	families, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == "workqueue_retries_total" && m.GetLabel()[0].GetValue() == t.Name() {
				if got := m.GetCounter().GetValue(); got != 2 {
					t.Errorf("%v retries are counted, want 2", got)
				}
				return
			}
		}
	}
	t.Error("the queue has no count of retries")
}
