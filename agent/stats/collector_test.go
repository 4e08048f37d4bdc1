package stats

import (
	"context"
	"testing"
	"time"

	"github.com/skep-io/skep/agent/usage"
)

// fixed is a source of given figures.
type fixed struct {
	pods   []Pod
	disk   map[string]usage.Pod
	images Images
}

func (f *fixed) Pods() []Pod { return f.pods }
func (f *fixed) PodNetwork(uid string) (Network, bool) {
	return Network{Interface: "eth0", RxBytes: 7, TxBytes: 9}, uid == "uid"
}
func (f *fixed) Disk(uid string) (usage.Pod, bool) {
	disk, ok := f.disk[uid]
	return disk, ok
}
func (f *fixed) Images(context.Context) Images { return f.images }
func (f *fixed) NodeNetwork() []Network        { return []Network{{Interface: "up", RxBytes: 1}} }

func newCollector(t *testing.T, source *fixed) *Collector {
	t.Helper()
	c, err := New(Config{NodeName: "node", StateDir: "/", Source: source, StartTime: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func value(p *uint64) uint64 {
	if p == nil {
		return 0
	}
	return *p
}

func TestFirstSummaryOfABusyProcessHasARate(t *testing.T) {
	pod, container := realCgroup(t)
	runIn(t, container, "while :; do :; done")
	c := newCollector(t, &fixed{pods: []Pod{{Namespace: "ns", Name: "p", UID: "uid", CgroupPath: pod, Containers: []Container{{Name: "c", CgroupPath: container}}}}})
	s, err := c.Summary(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Pods) != 1 || len(s.Pods[0].Containers) != 1 {
		t.Fatalf("summary has %+v", s.Pods)
	}
	p, ctr := s.Pods[0], s.Pods[0].Containers[0]
	for name, rate := range map[string]*uint64{"container": ctr.CPU.UsageNanoCores, "pod": p.CPU.UsageNanoCores, "node": s.Node.CPU.UsageNanoCores} {
		if value(rate) < 20e6 || name != "node" && value(rate) > 1.5e9 {
			t.Errorf("%s uses %d nanocores, and one loop runs in it", name, value(rate))
		}
	}
	if m := ctr.Memory; value(m.UsageBytes) == 0 || value(m.WorkingSetBytes) > value(m.UsageBytes) || m.RSSBytes == nil {
		t.Errorf("container's memory: %+v", m)
	}
	if p.ProcessStats == nil || *p.ProcessStats.ProcessCount != 1 {
		t.Errorf("pod's processes: %+v", p.ProcessStats)
	}
	if p.Network == nil || *p.Network.RxBytes != 7 || s.Node.Network.Name != "up" {
		t.Errorf("network: %+v, node %+v", p.Network, s.Node.Network)
	}
	if value(s.Node.Memory.WorkingSetBytes) == 0 || s.Node.Fs == nil || *s.Node.Fs.CapacityBytes == 0 {
		t.Errorf("node: %+v, %+v", s.Node.Memory, s.Node.Fs)
	}
}

func TestEndedContainersAreForgotten(t *testing.T) {
	source := &fixed{pods: []Pod{{UID: "uid", CgroupPath: "/none", Containers: []Container{{Name: "c", CgroupPath: "/none/c"}}}}}
	c := newCollector(t, source)
	summary := func() int {
		t.Helper()
		s, err := c.Summary(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return len(s.Pods)
	}
	if n := summary(); n != 0 {
		t.Fatalf("%d pods of which none is there", n)
	}
	var container string
	t.Run("there", func(t *testing.T) {
		var pod string
		pod, container = realCgroup(t)
		source.pods = []Pod{{UID: "u", CgroupPath: pod, Containers: []Container{{Name: "c", CgroupPath: container}}}}
		if n := summary(); n != 1 || c.tracked[container] == nil {
			t.Fatalf("%d pods, files open: %v", n, c.tracked[container] != nil)
		}
	})
	if n := summary(); n != 0 || c.tracked[container] != nil {
		t.Fatalf("after the cgroup went: %d pods, files open: %v", n, c.tracked[container] != nil)
	}
}

func TestRateIsTakenOverABoundedSpan(t *testing.T) {
	start := time.Now()
	tr := &tracked{}
	for _, step := range []struct {
		at    float64
		again bool
		span  float64
	}{
		{0, true, 0}, {0.1, false, 0.1}, {5, false, 5}, {12, false, 12}, {13, false, 13}, {23, false, 11}, {24, false, 12}, {40, false, 17},
		{200, true, 0}, {200.1, false, 0.1},
	} {
		again := tr.advance(Usage{At: start.Add(time.Duration(step.at * 1e9)), CPU: uint64(step.at * 1e9)})
		if span := tr.now.At.Sub(tr.base.At).Seconds(); again != step.again || span < step.span-0.01 || span > step.span+0.01 {
			t.Fatalf("at %v s: span %v, again %v; want %v, %v", step.at, span, again, step.span, step.again)
		}
		if rate, ok := tr.rate(); ok && (rate < 0.99e9 || rate > 1.01e9) {
			t.Fatalf("at %v s: rate %d, want 1e9", step.at, rate)
		}
	}
}
