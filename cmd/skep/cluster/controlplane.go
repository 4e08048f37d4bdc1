package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/skep-io/skep/controlplane/jointoken"
)

func serverURL(st *state) string {
	return "https://" + netip.AddrPortFrom(bridgeAddr(st.Subnet), apiPort).String()
}

// startSkepd starts the control plane unless it runs.
func (c *Cluster) startSkepd(ctx context.Context, st *state) error {
	if st.Skepd.alive() {
		return nil
	}
	var err error
	st.Skepd, err = c.runSkepd(ctx, st, skepdPlace{cgroup: "skepd", dir: c.skepdDir(), log: c.SkepdLog(), addr: bridgeAddr(st.Subnet)}, nil)
	return err
}

// skepdPlace is what one skepd has of its own.
type skepdPlace struct {
	cgroup, dir, log string
	addr             netip.Addr
}

// runSkepd starts one skepd, under a process that starts it again if it ends, and returns that process.
func (c *Cluster) runSkepd(ctx context.Context, st *state, at skepdPlace, more []string) (process, error) {
	if err := os.MkdirAll(at.dir, 0o700); err != nil {
		return process{}, err
	}
	path := clusterCgroup(c.Name) + "/" + at.cgroup
	// A new folder each time: Linux 6.18 kills what is cloned into a cgroup that cgroup.kill was ever used on.
	if err := c.cgroups.remove(ctx, path); err != nil {
		return process{}, err
	}
	if err := c.cgroups.make(path); err != nil {
		return process{}, err
	}
	cgroup, err := os.Open(filepath.Join(c.cgroups.v2, path))
	if err != nil {
		return process{}, err
	}
	defer cgroup.Close()
	argv := []string{
		st.Bin.Skepd,
		"--data-dir", at.dir,
		"--listen", netip.AddrPortFrom(at.addr, apiPort).String(),
		"--lb-cidr", cmp.Or(st.LBCIDR, st.loadBalancers()),
	}
	if st.IPv6 {
		argv = append(argv, "--pod-cidr", podCIDRs, "--service-cidr", serviceCIDRs)
	}
	config := at.dir + ".json"
	if err := writeServerConfig(config, at.log, slices.Concat(argv, st.SkepdArgs, more)); err != nil {
		return process{}, err
	}
	cmd, err := daemonCommand(append(slices.Clone(st.Bin.Init), config), at.log)
	if err != nil {
		return process{}, err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	if err := startDaemon(cmd); err != nil {
		return process{}, fmt.Errorf("start skepd: %w", err)
	}
	return identify(cmd.Process.Pid)
}

// awaitSkepd returns when the API answers /readyz, with the kubeconfig written.
func (c *Cluster) awaitSkepd(ctx context.Context) error {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	var last error
	for {
		st, err := c.load()
		if err != nil {
			return err
		}
		if !st.Skepd.alive() {
			return fmt.Errorf("skepd ended while starting; the end of %s:\n%s", c.SkepdLog(), tail(c.SkepdLog(), 10))
		}
		if last = c.writeKubeconfig(st); last == nil {
			if last = c.probeReady(ctx); last == nil {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("skepd does not become ready (%w); the end of %s:\n%s", last, c.SkepdLog(), tail(c.SkepdLog(), 10))
		case <-ticker.C:
		}
	}
}

func (c *Cluster) probeReady(ctx context.Context) error {
	client, err := c.Client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err = client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
	return err
}

// writeKubeconfig copies the admin's kubeconfig from the control plane's data,
// with the cluster's name on its context and the server's address from outside.
func (c *Cluster) writeKubeconfig(st *state) error {
	admin, err := clientcmd.LoadFromFile(filepath.Join(c.skepdDir(), "admin.kubeconfig"))
	if err != nil {
		return err
	}
	current := admin.Contexts[admin.CurrentContext]
	if current == nil || admin.Clusters[current.Cluster] == nil || admin.AuthInfos[current.AuthInfo] == nil {
		return fmt.Errorf("%s: its current context is incomplete", filepath.Join(c.skepdDir(), "admin.kubeconfig"))
	}
	name := "skep-" + c.Name
	config := clientcmdapi.NewConfig()
	config.CurrentContext = name
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name, Namespace: current.Namespace}
	config.Clusters[name] = admin.Clusters[current.Cluster]
	config.Clusters[name].Server = serverURL(st)
	config.AuthInfos[name] = admin.AuthInfos[current.AuthInfo]
	data, err := clientcmd.Write(*config)
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(c.Kubeconfig()); err == nil && string(old) == string(data) {
		return nil
	}
	return writeFileAtomically(c.Kubeconfig(), data, 0o600)
}

// KillControlPlane ends the first server with SIGKILL and returns when it has ended.
func (c *Cluster) KillControlPlane(ctx context.Context) error {
	return (&Server{cluster: c, Number: 1}).Kill(ctx)
}

// StopControlPlane ends the first server with SIGTERM and returns when it has ended.
func (c *Cluster) StopControlPlane(ctx context.Context) error {
	return c.change(func(st *state) error {
		if !st.Skepd.alive() {
			return nil
		}
		events, err := os.Open(filepath.Join(c.cgroups.v2, clusterCgroup(c.Name), "skepd", "cgroup.events"))
		if err != nil {
			return err
		}
		defer events.Close()
		if err := unix.Kill(st.Skepd.PID, unix.SIGTERM); err != nil {
			return err
		}
		if err := awaitEvent(ctx, events, "populated 0"); err != nil {
			return err
		}
		st.Skepd = process{}
		return nil
	})
}

// StartControlPlane starts the servers that do not run, except those that have not joined yet, and returns when the first is ready.
func (c *Cluster) StartControlPlane(ctx context.Context) error {
	if err := c.change(func(st *state) error { return errors.Join(c.startSkepd(ctx, st), c.startJoined(ctx, st)) }); err != nil {
		return err
	}
	return c.awaitSkepd(ctx)
}

// SkepdPID is the first server's process, 0 if it does not run.
func (c *Cluster) SkepdPID() int { return (&Server{cluster: c, Number: 1}).PID() }

// agentCommand is how the host's first process starts the agent.
func (c *Cluster) agentCommand(st *state, node string) ([]string, error) {
	token, err := c.joinToken()
	if err != nil {
		return nil, err
	}
	n := st.Nodes[node]
	argv := []string{
		st.Bin.Agent,
		"--server", serverURL(st),
		"--token", token,
		"--node-name", node,
		"--node-ip", commas(st.addrs(node)),
		"--state-dir", filepath.Join(c.nodeDir(node), "state"),
		"--cgroup", nodeCgroup(c.Name, node),
		"--hook-cgroup", nodeCgroup(c.Name, node),
		// The disk is the machine's, and the cluster does not act on how full it is. Memory and processes are those of the host's cgroup.
		"--image-gc-high-threshold", "100",
		"--eviction-hard", "memory.available<100Mi,nodefs.available<0%,nodefs.inodesFree<0%,imagefs.available<0%,imagefs.inodesFree<0%,pid.available<5%",
	}
	if len(n.Labels) > 0 {
		argv = append(argv, "--labels", formatLabels(n.Labels))
	}
	return slices.Concat(argv, st.AgentArgs, n.Args), nil
}

// joinToken is the one that skepd made for the first hosts, or a new one once that has expired.
func (c *Cluster) joinToken() (string, error) {
	left := filepath.Join(c.skepdDir(), "join-token")
	data, err := os.ReadFile(left)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("skepd has written no join token yet (%w): has it ever run? see %s", err, c.SkepdLog())
	}
	if err != nil {
		return "", err
	}
	info, err := os.Stat(left)
	if err != nil {
		return "", err
	}
	if time.Since(info.ModTime()) < jointoken.DefaultTTL-time.Hour {
		return strings.TrimSpace(string(data)), nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	text, err := c.makeToken(ctx, jointoken.Token{Description: "For hosts of skep up.", Expires: time.Now().Add(jointoken.DefaultTTL), Authentication: true})
	if err != nil {
		return "", err
	}
	return text, writeFileAtomically(left, []byte(text+"\n"), 0o600)
}

func commas[T fmt.Stringer](list []T) string {
	var texts []string
	for _, value := range list {
		texts = append(texts, value.String())
	}
	return strings.Join(texts, ",")
}

func formatLabels(labels map[string]string) string {
	var pairs []string
	for key, value := range labels {
		pairs = append(pairs, key+"="+value)
	}
	sort.Strings(pairs)
	return strings.Join(pairs, ",")
}

// tail returns the last lines of a log, indented.
func tail(path string, lines int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return "    (" + err.Error() + ")"
	}
	all := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return "    " + strings.Join(all, "\n    ")
}

// makeToken stores a token, whose ID and secret it makes, and returns its text.
func (c *Cluster) makeToken(ctx context.Context, token jointoken.Token) (string, error) {
	ca, err := os.ReadFile(filepath.Join(c.skepdDir(), "pki", "ca.crt"))
	if err != nil {
		return "", err
	}
	text, err := jointoken.New(ca)
	if err != nil {
		return "", err
	}
	client, err := c.Client()
	if err != nil {
		return "", err
	}
	token.ID, token.Secret = text.ID, text.Secret
	if _, err := client.CoreV1().Secrets(metav1.NamespaceSystem).Create(ctx, token.Object(), metav1.CreateOptions{}); err != nil {
		return "", fmt.Errorf("make a join token: %w", err)
	}
	return text.String(), nil
}
