package runtime_test

import (
	"context"
	"fmt"
	"sort"
	"testing"
	"time"

	"github.com/skep-io/skep/agent/runtime"
)

// BenchmarkContainer measures the stages of the start of a pod's first container. Stages are
// medians in milliseconds; the pod worker overlaps the first two.
func BenchmarkContainer(b *testing.B) {
	n := startNode(b)
	ctx := context.Background()
	stages := map[string][]time.Duration{}
	timed := func(name string, f func()) {
		began := time.Now()
		f()
		stages[name] = append(stages[name], time.Since(began))
	}
	round := 0
	for b.Loop() {
		round++
		uid := fmt.Sprintf("bench%d", round)
		var sandbox runtime.Sandbox
		var p *runtime.Prepared
		var c runtime.Container
		var err error
		check := func() {
			if err != nil {
				b.Fatal(err)
			}
		}
		timed("namespaces", func() { sandbox, _, err = n.CreateSandbox(runtime.SandboxConfig{PodUID: uid, Hostname: uid}) })
		check()
		timed("snapshot", func() { p, err = n.Prepare(ctx, uid, testImage) })
		check()
		timed("create", func() {
			c, err = n.Create(ctx, p, runtime.ContainerConfig{PodUID: uid, Name: "main", Sandbox: sandbox, Command: []string{"sleep", "1000"}})
		})
		check()
		timed("start", func() { c, err = n.Runtime.Start(ctx, c.ID) })
		check()
		timed("kill", func() { err = n.Stop(ctx, c.ID, 0) })
		check()
		timed("remove", func() { err = n.RemoveSandbox(uid) })
		check()
	}
	b.StopTimer()
	for name, durations := range stages {
		sort.Slice(durations, func(i, j int) bool { return durations[i] < durations[j] })
		b.ReportMetric(float64(durations[len(durations)/2])/1e6, name+"-ms")
	}
}
