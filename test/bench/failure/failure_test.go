package failure

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/skep-io/skep/cmd/skep/cluster"
	"github.com/skep-io/skep/test/clustertest"
)

const (
	hosts  = 5
	faults = 20
	// rest is the time between two faults: links that lost packets a moment ago are given more time.
	rest = 2 * time.Second
	// The time in which Kubernetes' control plane gives a node up.
	byDefault, tuned = 50 * time.Second, 4 * time.Second
)

var local *clustertest.Cluster

func TestMain(m *testing.M) {
	os.Exit(clustertest.Main(m, "bench", "../../../bin", cluster.Options{Nodes: hosts}, func(c *clustertest.Cluster) { local = c }))
}

// BenchmarkCut reports the median and the longest of the times in milliseconds, and how many times that is in the baselines.
func BenchmarkCut(b *testing.B) {
	all, err := local.Nodes()
	if err != nil {
		b.Fatal(err)
	}
	for _, host := range all {
		stay(b, host.Name)
	}
	apply(b, `{"apiVersion":"v1","kind":"Service","metadata":{"name":"stay"},"spec":{"selector":{"app":"stay"},"ports":[{"port":7000}]}}`)
	awaitUp(b, all)
	for b.Loop() {
		var out, back []time.Duration
		for i := range faults {
			time.Sleep(rest)
			awaitUp(b, all)
			host := all[i%hosts]
			others := slices.DeleteFunc(slices.Clone(all), func(n *cluster.Node) bool { return n == host })
			if err := host.Cut(); err != nil {
				b.Fatal(err)
			}
			took, err := clustertest.AwaitStates(others, host.Name, clustertest.Down, clustertest.None)
			if healErr := host.Heal(); err != nil || healErr != nil {
				b.Fatal(err, healErr)
			}
			out = append(out, took)
			if took, err = clustertest.AwaitStates(others, host.Name, clustertest.Up); err != nil {
				b.Fatal(err)
			}
			back = append(back, took)
		}
		slices.Sort(out)
		slices.Sort(back)
		b.Logf("out: %v\nback: %v", out, back)
		median, longest := out[faults/2], out[faults-1]
		b.ReportMetric(median.Seconds()*1e3, "out-p50-ms")
		b.ReportMetric(longest.Seconds()*1e3, "out-p99-ms") // of 20, the longest
		b.ReportMetric(back[faults/2].Seconds()*1e3, "back-p50-ms")
		b.ReportMetric(byDefault.Seconds()/median.Seconds(), "default/skep")
		b.ReportMetric(tuned.Seconds()/median.Seconds(), "tuned/skep")
	}
}

// stay starts a backend that is not evicted from its host.
func stay(b *testing.B, host string) {
	apply(b, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"stay-`+host+`","labels":{"app":"stay"}},"spec":{"nodeName":"`+host+`",
		"tolerations":[{"operator":"Exists"}],"terminationGracePeriodSeconds":1,
		"containers":[{"name":"c","image":"skep/echo:dev","imagePullPolicy":"IfNotPresent"}]}}`)
}

func apply(b *testing.B, manifest string) {
	b.Helper()
	if out, err := local.Skep(b.Context(), manifest, "apply", "-f", "-"); err != nil {
		b.Fatal(err, out)
	}
}

// awaitUp waits until every host's maps have a backend on every other.
func awaitUp(b *testing.B, all []*cluster.Node) {
	b.Helper()
	for _, host := range all {
		others := slices.DeleteFunc(slices.Clone(all), func(n *cluster.Node) bool { return n == host })
		if _, err := clustertest.AwaitStates(others, host.Name, clustertest.Up); err != nil {
			b.Fatal(err)
		}
	}
}
