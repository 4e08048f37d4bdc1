package agent

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/dataplane/podnet"
)

func cidrs(texts ...string) (list []netip.Prefix) {
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

// Ranges that are added come into use without a restart and are kept for the next; what fails is tried again, and no server that does not
// know of them takes them away.
func TestPodRangesAreAdded(t *testing.T) {
	grown := testNetwork()
	grown.AddedPodCIDRs = cidrs("10.201.0.0/16")
	m := networkServer(t, 0, answerNetwork(testNetwork()))
	if err := m.learnNetwork(t.Context()); err != nil {
		t.Fatal(err)
	}
	var used [][]netip.Prefix
	fails := false
	m.ranges.follow(func(ranges []netip.Prefix) error {
		used = append(used, ranges)
		if fails {
			return errors.New("the kernel is busy")
		}
		return nil
	})
	want := func(what string, times int, ranges []netip.Prefix) {
		t.Helper()
		if len(used) != times || !slices.Equal(used[len(used)-1], ranges) || !slices.Equal(m.ranges.known(), ranges) {
			t.Errorf("%s: used %v, known %v, want %v", what, used, m.ranges.known(), ranges)
		}
	}
	want("at the start", 1, testNetwork().PodCIDRs)
	fails = true
	m.ranges.learn(m.cfg, grown)
	want("added", 2, grown.Pods())
	fails = false
	m.ranges.learn(m.cfg, testNetwork()) // by a server that does not know of it yet
	want("tried again", 3, grown.Pods())
	m.ranges.learn(m.cfg, grown)
	want("known already", 3, grown.Pods())
	if err := m.keepNetwork(t.Context()); err != nil {
		t.Errorf("the agent starts again: %v", err)
	}
	for _, wrong := range []netip.Prefix{{}, netip.MustParsePrefix("10.202.0.1/16")} {
		m.ranges.learn(m.cfg, skepv1.Network{AddedPodCIDRs: []netip.Prefix{wrong}})
	}
	want("what is no range", 3, grown.Pods())
	again := &membership{cfg: m.cfg}
	if err := again.learnNetwork(t.Context()); err != nil || !slices.Equal(again.ranges.known(), grown.Pods()) {
		t.Errorf("the next start has %v, %v", again.ranges.known(), err)
	}
	other := testNetwork()
	other.Domain = "other.internal"
	changed := networkServer(t, 0, answerNetwork(other))
	changed.network = m.network
	changed.ranges.begin(grown)
	if err := changed.keepNetwork(t.Context()); err == nil {
		t.Error("the agent goes on with another domain")
	}
	if kept := readNetwork(changed.cfg); kept == nil || !slices.Equal(kept.AddedPodCIDRs, grown.AddedPodCIDRs) {
		t.Errorf("a change of something else leaves %v", kept)
	}
}

// A node with a part of a range that is not known has the agent ask for the ranges at once.
func TestPodRangesAreAskedFor(t *testing.T) {
	m := newMembership(Config{}, nil, nil, nil)
	m.ranges.begin(testNetwork())
	asked := func() bool {
		select {
		case <-m.ranges.wanted:
			return true
		default:
			return false
		}
	}
	m.ranges.look([]podnet.Peer{{PodCIDRs: cidrs("10.200.7.0/24", "fd00:200:0:7::/64")}})
	if asked() {
		t.Error("asks though every range is known")
	}
	m.ranges.look([]podnet.Peer{{PodCIDRs: cidrs("10.200.7.0/24")}, {PodCIDRs: cidrs("10.201.7.0/24")}})
	if !asked() {
		t.Error("does not ask for a range that is not known")
	}
}
