package endpoints_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/controlplanetest"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/watchcache"
)

// BenchmarkLatency measures from the begin of a pod's status write to the moment
// at which the cache delivers the slice, in services of one and of 1,000
// endpoints: two commits to etcd and two deliveries.
func BenchmarkLatency(b *testing.B) {
	for _, count := range []int{1, 1000} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			r := controlplanetest.Start(b)
			start(b, r)
			controlplanetest.Create(b, r, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}},
				&corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{
					Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}},
				}})
			addPods(b, r, "web", count)
			delivered := make(chan int, 64)
			ctx, cancel := context.WithCancel(b.Context())
			var group sync.WaitGroup
			defer group.Wait()
			defer cancel()
			group.Go(func() {
				_ = r.Cache(kinds.EndpointSlices).Follow(ctx, func(watchcache.Event) {
					_, ready := sizes(r, "web")
					select {
					case delivered <- ready:
					case <-ctx.Done():
					}
				})
			})
			await := func(want int) {
				for ready := range delivered {
					if ready == want {
						return
					}
				}
			}
			await(count)
			var took []time.Duration
			ready := corev1.ConditionFalse
			for i := 0; b.Loop(); i++ {
				begin := time.Now()
				want := count - 1
				if ready == corev1.ConditionTrue {
					want = count
				}
				setPod(b, r, "web-0", ready, "")
				await(want)
				took = append(took, time.Since(begin))
				ready = map[corev1.ConditionStatus]corev1.ConditionStatus{corev1.ConditionFalse: corev1.ConditionTrue, corev1.ConditionTrue: corev1.ConditionFalse}[ready]
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "median-us")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
		})
	}
}
