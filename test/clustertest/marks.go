package clustertest

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/skep-io/skep/cmd/skep/cluster"
	"github.com/skep-io/skep/dataplane/service"
)

// IsDown says whether a host's service maps have another as down, by the maps in its kernel.
func IsDown(host *cluster.Node, other string) (bool, error) {
	pins, err := host.HostPath("/sys/fs/bpf/skep")
	if err != nil {
		return false, err
	}
	dump, err := service.DumpPinned(pins)
	if err != nil {
		return false, fmt.Errorf("maps of %s: %w", host.Name, err)
	}
	for _, n := range dump.Nodes {
		if n.Name == other {
			return n.Down, nil
		}
	}
	return false, fmt.Errorf("%s has no backends on %s in its maps", host.Name, other)
}

// AwaitMarks waits until every one of the hosts has the other as down in its maps, or none has, and returns how long it took.
func AwaitMarks(hosts []*cluster.Node, other string, down bool) (time.Duration, error) {
	began := time.Now()
	for left := hosts; len(left) > 0; {
		is, err := IsDown(left[0], other)
		if err != nil {
			return 0, err
		}
		if is == down {
			left = left[1:]
			continue
		}
		if time.Since(began) > Patience {
			return 0, fmt.Errorf("after %s %s still has %s as down: %v, want %v", Patience, left[0].Name, other, is, down)
		}
		time.Sleep(time.Millisecond) // the clock's grain
	}
	return time.Since(began), nil
}

// Metric reads one metric without labels of a host's agent.
func (s *Space) Metric(host, name string) float64 {
	s.Helper()
	for _, line := range strings.Split(s.Skep("get", "--raw", "/api/v1/nodes/"+host+"/proxy/metrics"), "\n") {
		if text, ok := strings.CutPrefix(line, name+" "); ok {
			value, err := strconv.ParseFloat(text, 64)
			if err != nil {
				s.Fatal(err)
			}
			return value
		}
	}
	s.Fatalf("%s has no metric %s", host, name)
	return 0
}
