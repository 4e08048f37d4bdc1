package clustertest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skep-io/skep/cmd/skep/cluster"
	"github.com/skep-io/skep/dataplane/service"
)

// State is what a host's service maps have of another host's backends.
type State int

const (
	None State = iota // there are none
	Up
	Down
)

// StateOf reads the maps in the host's kernel.
func StateOf(host *cluster.Node, other string) (State, error) {
	pins, err := host.HostPath("/sys/fs/bpf/skep")
	if err != nil {
		return None, err
	}
	dump, err := service.DumpPinned(pins)
	if err != nil {
		return None, fmt.Errorf("maps of %s: %w", host.Name, err)
	}
	for _, n := range dump.Nodes {
		switch {
		case n.Name == other && n.Down:
			return Down, nil
		case n.Name == other:
			return Up, nil
		}
	}
	return None, nil
}

// AwaitStates waits until the maps of every one of the hosts have the other in one of the states, and returns how long it took.
func AwaitStates(hosts []*cluster.Node, other string, states ...State) (time.Duration, error) {
	began := time.Now()
	for left := hosts; len(left) > 0; {
		is, err := StateOf(left[0], other)
		if err != nil {
			return 0, err
		}
		if slices.Contains(states, is) {
			left = left[1:]
			continue
		}
		if time.Since(began) > Patience {
			return 0, fmt.Errorf("after %s %s still has %s in state %d, want %v", Patience, left[0].Name, other, is, states)
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
