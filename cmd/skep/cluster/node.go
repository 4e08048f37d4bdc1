package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Node is one virtual host of a cluster.
type Node struct {
	cluster *Cluster
	Name    string
	Index   int
	Addr    netip.Addr
	Addr6   netip.Addr // not valid on a machine without IPv6
}

// Node finds a host by its name.
func (c *Cluster) Node(name string) (*Node, error) {
	st, err := c.load()
	if err != nil {
		return nil, err
	}
	n, ok := st.Nodes[name]
	if !ok {
		return nil, fmt.Errorf("no node %q in cluster %q: there are %s", name, c.Name, strings.Join(st.nodeNames(), ", "))
	}
	return c.node(st, name, n), nil
}

func (c *Cluster) node(st *state, name string, n *nodeState) *Node {
	addrs := append(st.addrs(name), netip.Addr{})
	return &Node{cluster: c, Name: name, Index: n.Index, Addr: addrs[0], Addr6: addrs[1]}
}

// Nodes lists the hosts in order.
func (c *Cluster) Nodes() ([]*Node, error) {
	st, err := c.load()
	if err != nil {
		return nil, err
	}
	var nodes []*Node
	for _, name := range st.nodeNames() {
		nodes = append(nodes, c.node(st, name, st.Nodes[name]))
	}
	return nodes, nil
}

// Power is whether a host runs and is connected.
type Power struct {
	Running, Paused, Cut bool
	PID                  int // of its first process
}

func (p Power) String() string {
	text := "stopped"
	switch {
	case p.Running && p.Paused:
		text = "paused"
	case p.Running:
		text = "running"
	}
	if p.Cut {
		text += ", cut off"
	}
	return text
}

// Power reads the host's current state.
func (n *Node) Power() (Power, error) {
	st, err := n.cluster.load()
	if err != nil {
		return Power{}, err
	}
	ns, ok := st.Nodes[n.Name]
	if !ok {
		return Power{}, fmt.Errorf("%s is gone from cluster %q", n.Name, n.cluster.Name)
	}
	power := Power{Running: ns.Init.alive(), Cut: ns.Cut, PID: ns.Init.PID}
	power.Paused = power.Running && n.cluster.cgroups.frozen(nodeCgroup(n.cluster.Name, n.Name))
	return power, nil
}

// change runs f under the cluster's lock with the host's state.
func (n *Node) change(f func(st *state, ns *nodeState) error) error {
	return n.cluster.change(func(st *state) error {
		ns, ok := st.Nodes[n.Name]
		if !ok {
			return fmt.Errorf("%s is gone from cluster %q", n.Name, n.cluster.Name)
		}
		if err := f(st, ns); err != nil {
			return fmt.Errorf("%s: %w", n.Name, err)
		}
		return nil
	})
}

// Kill works like a power cut: the cable is disconnected first, so that the kernel
// cannot close connections to the host's peers, then every process is killed. Nothing
// is cleaned up. Killing a host that does not run is no error.
func (n *Node) Kill(ctx context.Context) error {
	return n.change(func(_ *state, ns *nodeState) error {
		if err := setPort(n.cluster.Name, ns, false); err != nil {
			return err
		}
		if err := n.cluster.cgroups.kill(ctx, nodeCgroup(n.cluster.Name, n.Name)); err != nil {
			return err
		}
		ns.Init = process{} // it may still be exiting, and must not be taken for running
		return nil
	})
}

// Start boots the host again after Kill. Starting a running host is no error.
func (n *Node) Start(ctx context.Context) error {
	return n.change(func(st *state, ns *nodeState) error {
		if ns.Init.alive() {
			return nil
		}
		return n.cluster.boot(ctx, st, n.Name)
	})
}

// Pause stops all the host's processes where they are; its kernel still
// acknowledges packets, as that of a hung machine does.
func (n *Node) Pause(ctx context.Context) error { return n.freeze(ctx, true) }

// Resume continues a paused host.
func (n *Node) Resume(ctx context.Context) error { return n.freeze(ctx, false) }

func (n *Node) freeze(ctx context.Context, frozen bool) error {
	return n.change(func(_ *state, ns *nodeState) error {
		if !ns.Init.alive() {
			return fmt.Errorf("is not running: start it with `skep node start %s`", n.Name)
		}
		return n.cluster.cgroups.freeze(ctx, nodeCgroup(n.cluster.Name, n.Name), frozen)
	})
}

// Cut disconnects the host from the network; it stays so over a reboot, until Heal.
func (n *Node) Cut() error { return n.setCut(true) }

// Heal plugs the cable in again.
func (n *Node) Heal() error { return n.setCut(false) }

func (n *Node) setCut(cut bool) error {
	return n.change(func(_ *state, ns *nodeState) error {
		ns.Cut = cut
		if !ns.Init.alive() {
			return nil // takes effect when it boots: a host that does not run sends nothing
		}
		return setPort(n.cluster.Name, ns, !cut)
	})
}

// InNetwork runs f on a thread inside the host's network namespace: sockets
// that f makes are the host's. f must not start goroutines that make more.
func (n *Node) InNetwork(f func() error) error {
	return onOwnThread(func() error {
		if err := joinNamespace(netnsPath(netnsName(n.cluster.Name, n.Name)), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

// LogPath is where the agent's output goes.
func (n *Node) LogPath() string { return n.cluster.agentLog(n.Name) }

// StateDir is the agent's --state-dir.
func (n *Node) StateDir() string { return filepath.Join(n.cluster.nodeDir(n.Name), "state") }

// CgroupPath is the host's folder in the v2 hierarchy.
func (n *Node) CgroupPath() string {
	return filepath.Join(n.cluster.cgroups.v2, nodeCgroup(n.cluster.Name, n.Name))
}

// ContainerProcess is the first process of a container, found by its cgroup.
func (n *Node) ContainerProcess(id string) (pid int, err error) {
	err = filepath.WalkDir(n.CgroupPath(), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() || entry.Name() != id {
			return nil // a folder removed meanwhile is another container's
		}
		data, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			return err
		}
		if _, err := fmt.Sscan(string(data), &pid); err != nil {
			return fmt.Errorf("no process in %s: %w", path, err)
		}
		return filepath.SkipAll
	})
	if err == nil && pid == 0 {
		err = fmt.Errorf("no cgroup of container %q on %s", id, n.Name)
	}
	return pid, err
}

// HostPath turns a path on the host into one for this process, for as long as
// the host runs: through the root folder of the host's first process.
func (n *Node) HostPath(path string) (string, error) {
	power, err := n.Power()
	if err != nil {
		return "", err
	}
	if !power.Running {
		return "", fmt.Errorf("%s is not running", n.Name)
	}
	return filepath.Join("/proc", strconv.Itoa(power.PID), "root", path), nil
}

// ExecOptions are the streams of a command on a host.
type ExecOptions struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Env            []string // besides the host's
}

// Exec runs a command on the host: in its namespaces, and in its cgroup, so
// that it ends with the host. The exit code is an *exec.ExitError.
func (n *Node) Exec(ctx context.Context, o ExecOptions, argv ...string) error {
	power, err := n.Power()
	if err != nil {
		return err
	}
	if !power.Running {
		return fmt.Errorf("%s is not running: start it with `skep node start %s`", n.Name, n.Name)
	}
	cgroup, err := os.Open(filepath.Join(n.cluster.cgroups.v2, nodeCgroup(n.cluster.Name, n.Name), "system"))
	if err != nil {
		return err
	}
	defer cgroup.Close()
	var cmd *exec.Cmd
	err = onOwnThread(func() error {
		// A mount namespace can be joined only by a thread that shares its file system context with no other.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
		proc := fmt.Sprintf("/proc/%d/ns/", power.PID)
		// The mount namespace comes last: after it, only /proc/PID is sure to be the same.
		if err := errors.Join(
			joinNamespace(proc+"net", unix.CLONE_NEWNET),
			joinNamespace(proc+"uts", unix.CLONE_NEWUTS),
			joinNamespace(proc+"cgroup", unix.CLONE_NEWCGROUP),
			joinNamespace(proc+"mnt", unix.CLONE_NEWNS)); err != nil {
			return fmt.Errorf("enter %s: %w", n.Name, err)
		}
		cmd = exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = o.Stdin, o.Stdout, o.Stderr
		cmd.Env = append(append(os.Environ(), "PATH="+searchPath()), o.Env...)
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
		return cmd.Start()
	})
	if err != nil {
		return err
	}
	return cmd.Wait()
}
