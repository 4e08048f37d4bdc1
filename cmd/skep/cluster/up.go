package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/skep-io/skep/dataplane/kernelfloor"
	"github.com/skep-io/skep/dataplane/podnet"
)

// Up makes the cluster that the options describe and returns when every host is
// ready. Running parts are not changed; those that have ended, also with the whole
// machine, are started again with their data; missing hosts are added. Hosts are
// only removed by Down.
func Up(ctx context.Context, o Options) (*Cluster, error) {
	if err := CheckMachine(); err != nil {
		return nil, err
	}
	c, err := newCluster(o.Name, o.Dir, o.Progress)
	if err != nil {
		return nil, err
	}
	if o.Nodes < 0 || o.Nodes > MaxNodes {
		return nil, fmt.Errorf("%d nodes: want 1 to %d", o.Nodes, MaxNodes)
	}
	begin := time.Now()
	if err := c.prepare(o); err != nil {
		return nil, err
	}
	if len(o.Bare) > 0 {
		_, err := c.bootMissing(ctx)
		return c, err
	}
	step, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	if err := c.StartControlPlane(step); err != nil {
		return nil, err
	}
	c.say("Control plane ready       %6.1fs  %s", time.Since(begin).Seconds(), c.SkepdLog())
	join, cancelJoin := context.WithTimeout(ctx, 3*time.Minute)
	defer cancelJoin()
	if err := c.joinServers(join, begin); err != nil {
		return nil, err
	}
	started, err := c.bootMissing(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.awaitNodes(ctx, begin, started); err != nil {
		return nil, err
	}
	if !o.NoDNS {
		if err := c.ensureDNS(ctx); err != nil {
			return nil, fmt.Errorf("cluster DNS: %w", err)
		}
		c.say("Cluster DNS ready         %6.1fs", time.Since(begin).Seconds())
	}
	return c, nil
}

// CheckMachine says in one line what this machine or user lacks for a cluster.
func CheckMachine() error {
	if os.Geteuid() != 0 {
		return errors.New("must be root to make network namespaces and cgroups: run it with sudo")
	}
	if err := kernelfloor.Check(); err != nil {
		return err
	}
	var missing []string
	for _, program := range []string{"containerd", "containerd-shim-runc-v2", "runc"} {
		if !inSearchPath(program) {
			missing = append(missing, program)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%s not found in the PATH: install containerd and runc (`make deps`, or `apt-get install containerd runc`)", strings.Join(missing, ", "))
	}
	return nil
}

func inSearchPath(program string) bool {
	for _, dir := range strings.Split(searchPath(), ":") {
		if _, err := exec.LookPath(dir + "/" + program); err == nil {
			return true
		}
	}
	return false
}

// prepare makes the folder, the bridge and the list of hosts.
func (c *Cluster) prepare(o Options) error {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return err
	}
	unlock, err := lockDir(c.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	st, err := loadState(c.Dir)
	fresh := errors.Is(err, fs.ErrNotExist)
	switch {
	case fresh:
		st = &state{Name: c.Name, Nodes: map[string]*nodeState{}}
		if err := c.refuseForeign(); err != nil {
			os.Remove(c.Dir) // only if it is empty, as a new one is
			return err
		}
	case err != nil:
		return err
	case st.Name != c.Name:
		return fmt.Errorf("%s holds cluster %q: choose another --dir for %q", c.Dir, st.Name, c.Name)
	}
	st.Bin, st.SkepdArgs, st.AgentArgs, st.Bare, st.LBCIDR = o.Bin, o.SkepdArgs, o.AgentArgs, o.Bare, o.LBCIDR
	if fresh {
		st.IPv6 = ipv6Off() == ""
	}
	if st.Subnet, err = ensureBridge(c.Name, st.Subnet, st.IPv6); err != nil {
		return err
	}
	if err := c.planServers(st, o.Servers); err != nil {
		return err
	}
	added := st.addNodes(o)
	for name, n := range st.Nodes {
		n.Args = o.NodeArgs[name]
	}
	if err := st.save(c.Dir); err != nil {
		return err
	}
	if err := c.ensureRouter(st); err != nil {
		return err
	}
	if fresh {
		c.say("Cluster %q: %d hosts on %s (bridge %s), state in %s", c.Name, len(st.Nodes), subnetPrefix(st.Subnet), bridgeName(c.Name), c.Dir)
		if !st.IPv6 {
			c.say("IPv4 only: IPv6 is off on this machine (%s)", ipv6Off())
		}
	} else if added > 0 {
		c.say("Cluster %q: %d more hosts, %d now", c.Name, added, len(st.Nodes))
	} else {
		c.say("Cluster %q: %d hosts, state in %s", c.Name, len(st.Nodes), c.Dir)
	}
	c.warnOfFilters()
	return errors.Join(c.ensureOutbound(st, o.Outbound), st.save(c.Dir))
}

// warnOfFilters reports packet filters for traffic that the machine routes which
// may drop the hosts' traffic too, though it only crosses the bridge.
func (c *Cluster) warnOfFilters() {
	if !podnet.BridgedFiltering() {
		return
	}
	for _, chain := range podnet.DroppedForwarding() {
		c.say("Warning: %s also sees what crosses the bridge (net.bridge.bridge-nf-call-iptables is 1) and drops it unless a rule lets it pass:\n"+
			"  hosts may not reach each other's pods. Set net.bridge.bridge-nf-call-iptables and -ip6tables to 0, or let interface %s pass", chain, bridgeName(c.Name))
	}
}

// refuseForeign keeps a second cluster of the same name, with its state
// elsewhere, from taking over the first one's names.
func (c *Cluster) refuseForeign() error {
	populated, err := c.cgroups.populated(clusterCgroup(c.Name))
	if err != nil {
		return err
	}
	if populated {
		return fmt.Errorf("a cluster %q runs already with its state in another folder than %s: use its --dir, choose another --name, or end it with `skep down --name %s`", c.Name, c.Dir, c.Name)
	}
	return nil
}

func (s *state) addNodes(o Options) (added int) {
	wanted := o.Nodes
	if wanted == 0 && len(s.Nodes) == 0 {
		wanted = DefaultNodes
	}
	for index := 1; index <= wanted; index++ {
		name := nodeName(index)
		if s.Nodes[name] != nil {
			continue
		}
		labels := map[string]string{}
		if o.Zones > 0 {
			labels["topology.kubernetes.io/zone"] = fmt.Sprintf("zone%d", (index-1)%o.Zones+1)
		}
		for key, value := range o.Labels[name] {
			labels[key] = value
		}
		s.Nodes[name] = &nodeState{
			Index: index, Labels: labels, Routed: slices.Contains(o.Routed, name), NoXDP: slices.Contains(o.NoDriverXDP, name),
		}
		added++
	}
	return added
}

// bootMissing boots every host that does not run, in parallel, and returns their names.
func (c *Cluster) bootMissing(ctx context.Context) (started []string, err error) {
	err = c.change(func(st *state) error {
		for _, name := range st.nodeNames() {
			if !st.Nodes[name].Init.alive() {
				started = append(started, name)
			}
		}
		errs := make([]error, len(started))
		var group sync.WaitGroup
		for i, name := range started {
			if err := os.MkdirAll(c.nodeDir(name), 0o755); err != nil {
				return err
			}
			group.Go(func() { errs[i] = c.boot(ctx, st, name) })
		}
		group.Wait()
		return errors.Join(errs...)
	})
	return started, err
}
