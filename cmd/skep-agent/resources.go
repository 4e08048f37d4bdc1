package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skep-io/skep/agent"
	"github.com/skep-io/skep/agent/eviction"
	"github.com/skep-io/skep/agent/node"
)

// resourceFlags limit what pods may use of the node, by kubelet's names and in its formats.
func (o *options) resourceFlags(command *cobra.Command) {
	f := command.Flags()
	f.StringVar(&o.kubeReserved, "kube-reserved", "", "What the agent and containerd keep of the node: cpu=100m,memory=256Mi,ephemeral-storage=1Gi,pid=1000")
	f.StringVar(&o.systemReserved, "system-reserved", "", "What the host's other programs keep of it, in the same form")
	f.StringVar(&o.eviction.Hard, "eviction-hard", eviction.DefaultHard, "What must stay available: SIGNAL<VALUE,…; what it says of memory and nodefs is not allocatable to pods; those given replace all of the default")
	f.StringVar(&o.eviction.Soft, "eviction-soft", "", "What pods are evicted for when it has been short for a while: SIGNAL<VALUE,…")
	f.StringVar(&o.eviction.SoftGracePeriod, "eviction-soft-grace-period", "", "For how long each of --eviction-soft must have been short: SIGNAL=DURATION,…")
	f.StringVar(&o.eviction.MinimumReclaim, "eviction-minimum-reclaim", "", "What must be reclaimed beyond a threshold once it was met: SIGNAL=VALUE,…")
	f.DurationVar(&o.cfg.Pressure.Transition, "eviction-pressure-transition-period", 5*time.Minute, "How long a pressure condition of the node is kept after its threshold was last met")
	f.Int32Var(&o.evictionGrace, "eviction-max-pod-grace-period", 0, "Seconds that pods have at most to end for a soft threshold")
	f.Int64Var(&o.cfg.Reserves.PodPids, "pod-max-pids", 4096, "Processes and threads of one pod, and never more than half of what all pods may have; -1 for no limit of its own")
}

// maxTableSize limits the configured entries of a table: a map of this size takes some GB.
const maxTableSize = 1 << 26

func (o *options) tables(cfg *agent.Config) error {
	t := &cfg.Tables
	sizes := map[string]*uint32{
		"frontends": &t.Frontends, "services": &t.Services, "backends": &t.Backends, "slots": &t.Slots, "nodes": &t.Nodes, "flows": &cfg.Flows,
	}
	for pair := range strings.SplitSeq(o.tableSizes, ",") {
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		size, known := sizes[name]
		n, err := strconv.ParseUint(value, 10, 32)
		if !known || err != nil || n == 0 || n > maxTableSize {
			return fmt.Errorf("--table-sizes %q: give TABLE=N with N from 1 to %d and TABLE one of %s", pair, maxTableSize, strings.Join(slices.Sorted(maps.Keys(sizes)), ", "))
		}
		*size = uint32(n)
	}
	return nil
}

func (o *options) reserves(cfg *agent.Config) (err error) {
	r := &cfg.Reserves
	if r.Kube, err = node.ParseReserved("--kube-reserved", o.kubeReserved); err != nil {
		return err
	}
	if r.System, err = node.ParseReserved("--system-reserved", o.systemReserved); err != nil {
		return err
	}
	if r.PodPids == 0 || r.PodPids < -1 {
		return fmt.Errorf("--pod-max-pids %d: give a positive number, or -1 for no limit", r.PodPids)
	}
	if o.evictionGrace < 0 {
		return fmt.Errorf("--eviction-max-pod-grace-period %d: give seconds, or 0 for pods to end at once", o.evictionGrace)
	}
	cfg.Pressure.MaxPodGrace = time.Duration(o.evictionGrace) * time.Second
	if cfg.Pressure.Transition < 0 {
		return fmt.Errorf("--eviction-pressure-transition-period %v must not be negative", cfg.Pressure.Transition)
	}
	r.Thresholds, err = eviction.Parse(o.eviction)
	return err
}
