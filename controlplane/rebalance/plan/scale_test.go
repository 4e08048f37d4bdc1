package plan

import (
	"fmt"
	"testing"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/controlplane/scheduler"
)

// BenchmarkPlan plans for 2,000 workloads of ten replicas on 5,000 nodes, of which a fifth has come back empty, and finds the first ten moves.
func BenchmarkPlan(b *testing.B) {
	c := &cluster{}
	for i := range 5000 {
		c.nodes(fmt.Sprintf("zone%d/node%d", i%5, i))
	}
	for w := range 2000 {
		var nodes []string
		for i := range 10 {
			at := (w*37 + i*101) % 5000
			if at%5 == 4 {
				at--
			}
			nodes = append(nodes, fmt.Sprint("node", at))
		}
		c.workload(fmt.Sprint("w", w), nil, nodes...)
	}
	for b.Loop() {
		if plan := Make(scheduler.DefaultConfiguration(), c.State, Options{RebalanceQuery: skepv1.RebalanceQuery{Limit: 10}}); len(plan.Moves) != 10 {
			b.Fatalf("%d moves", len(plan.Moves))
		}
	}
}
