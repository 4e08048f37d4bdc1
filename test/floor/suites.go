package floor

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skep-io/skep/test/floor/plan"
)

// suite is a package whose tests run on the kernel.
type suite struct {
	folder string
	limit  time.Duration // on an emulated processor that others use too
	core   []string      // the tests that run unless all are asked for; nil: all
	skip   []string      // as -test.skip, if all are asked for
	args   []string
	env    []string
}

// suites run every program that differs by kernel and every fallback, in a few
// minutes of an emulated processor; with -whole, all tests but those that take
// minutes there and ask nothing of the kernel that the rest does not.
var suites = []suite{
	{folder: "test/verifier", limit: 2 * time.Minute},
	{
		folder: "dataplane/service", limit: 6 * time.Minute,
		core: []string{
			"TestLeastConnectionsCountsSockets", "TestLeastConnectionsAgreesWithItsTwin", "TestSelectLocalFollowsTheHint", "TestPeerIsTheService",
			"TestUnconnectedUDP", "TestNoBackendIsRefusedAtOnce", "TestLinksAreUpgradedInPlace", "TestServicesOutliveAKilledProcess",
		},
		skip: []string{"TestCrashAtEveryWrite", "TestFullLoad", "TestLargeServices"},
	},
	{
		folder: "dataplane/sockets", limit: 6 * time.Minute,
		core: []string{"TestClosesWhatIsLeftOnADepartedBackend", "TestLeavesTheSocketsOfAnotherService", "TestClosesMappedSockets"},
		skip: []string{"TestExactlyThoseUnderFire"},
	},
	{
		folder: "dataplane/podpath", limit: 6 * time.Minute, args: []string{"-packets=500"},
		core: []string{"TestPodsOfOneNodeTalkAroundTheStack", "TestPodsOfTwoNodesTalkAroundTheStacks", "TestServiceByThePacket", "TestRandomPackets"},
		skip: []string{"TestPathsChangeUnderTraffic"},
	},
	{
		folder: "dataplane/flow", limit: 8 * time.Minute, env: []string{"SKEP_FUZZ_PACKETS=1000"},
		core: []string{"TestDeliverHere", "TestEncapsulate", "TestDecapsulate", "TestFragments", "TestAnyPacket", "TestFromOutside", "TestSNATFromOutside", "TestBackendInTheHostsNetwork", "TestGenericXDP"},
		skip: []string{"TestUpgradeUnderTraffic"},
	},
	{folder: "agent/usage", limit: 2 * time.Minute, core: []string{"TestProjectsAreCountedByTheKernel"}, args: []string{"-quotas"}},
	{
		folder: "dataplane/podnet", limit: 3 * time.Minute,
		core: []string{"TestHostsThatShareNoLinkAreReachedThroughVXLAN", "TestBandwidthIsLimitedEachWay", "TestPodsLeaveTheClusterWithTheHostsAddress", "TestDetachAndRemoveLeaveNothing"},
	},
}

// later are the subtests that an older kernel does not need: those that force what
// it lacks, and those that force the fallback which it chooses by itself. The
// same tests have a subtest that runs everywhere.
var later = []struct {
	subtest string
	since   [2]int
}{
	{"/bpf_sock_destroy", [2]int{6, 5}}, // else sock_diag
	{"/clsact", [2]int{6, 6}},           // tcx: "chosen" runs with clsact
}

// run is the suite on a kernel; all: more than its core.
func (s suite) run(release string, all bool) (plan.Run, error) {
	var version [2]int
	if _, err := fmt.Sscanf(release, "%d.%d", &version[0], &version[1]); err != nil {
		return plan.Run{}, fmt.Errorf("kernel version %q is not understood: %w", release, err)
	}
	var skip []string
	if all {
		skip = slices.Clone(s.skip)
	}
	for _, f := range later {
		if version[0] < f.since[0] || version[0] == f.since[0] && version[1] < f.since[1] {
			skip = append(skip, f.subtest)
		}
	}
	args := []string{"-test.v=test2json", "-test.timeout=" + (s.limit - 5*time.Second).String()}
	if len(skip) > 0 {
		args = append(args, "-test.skip="+strings.Join(skip, "|"))
	}
	if !all && s.core != nil {
		args = append(args, "-test.run=^("+strings.Join(s.core, "|")+")$")
	}
	return plan.Run{Folder: s.folder, Binary: s.binary(), Args: append(args, s.args...), Env: s.env, Limit: s.limit}, nil
}

func (s suite) binary() string { return s.folder[strings.LastIndex(s.folder, "/")+1:] + ".test" }
