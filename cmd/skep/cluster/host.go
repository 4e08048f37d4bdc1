package cluster

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// boot gives the host a fresh network namespace and cgroup, as a reboot would,
// and starts its first process. The content of its disk (nodeK/) is kept.
func (c *Cluster) boot(ctx context.Context, st *state, node string) error {
	n := st.Nodes[node]
	fail := func(err error) error { return fmt.Errorf("%s: %w", node, err) }
	if err := c.unplug(ctx, node, n); err != nil {
		return fail(err)
	}
	config := &hostConfig{
		Hostname: node, Agent: st.Bare, Log: c.agentLog(node), Cgroup: nodeCgroup(c.Name, node),
		Nameservers: nameservers(st.Subnet), Hosts: hostsFile(st),
	}
	if len(st.Bare) > 0 {
		config.Disk = filepath.Join(c.nodeDir(node), "disk")
	} else {
		config.Cgroup += "/system"
	}
	if err := c.cgroups.make(config.Cgroup); err != nil {
		return fail(err)
	}
	if err := createNetns(netnsName(c.Name, node)); err != nil {
		return fail(err)
	}
	if err := plug(c.Name, st, n); err != nil {
		return fail(err)
	}
	if n.Cut {
		if err := setPort(c.Name, n, false); err != nil {
			return fail(err)
		}
	}
	var err error
	if config.Disk == "" {
		if config.Agent, err = c.agentCommand(st, node); err != nil {
			return fail(err)
		}
	}
	n.Init, err = c.startInit(st, node, config)
	if err != nil {
		return fail(err)
	}
	return nil
}

// unplug ends the host and removes its cgroup, port and network namespace.
func (c *Cluster) unplug(ctx context.Context, node string, n *nodeState) error {
	return errors.Join(
		c.cgroups.remove(ctx, nodeCgroup(c.Name, node)),
		removePort(c.Name, n),
		deleteNetns(netnsName(c.Name, node)))
}

// startInit returns when the first process has set the host up.
func (c *Cluster) startInit(st *state, node string, config *hostConfig) (process, error) {
	dir := c.nodeDir(node)
	if err := os.MkdirAll(filepath.Join(dir, "state"), 0o755); err != nil {
		return process{}, err
	}
	data, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		return process{}, err
	}
	configPath := filepath.Join(dir, "host.json")
	if err := writeFileAtomically(configPath, append(data, '\n'), 0o600); err != nil {
		return process{}, err
	}
	cgroup, err := os.Open(filepath.Join(c.cgroups.v2, config.Cgroup))
	if err != nil {
		return process{}, err
	}
	defer cgroup.Close()
	ready, readyInside, err := os.Pipe()
	if err != nil {
		return process{}, err
	}
	defer ready.Close()
	cmd, err := daemonCommand(append(append([]string{}, st.Bin.Init...), configPath), config.Log)
	if err != nil {
		readyInside.Close()
		return process{}, err
	}
	cmd.ExtraFiles = []*os.File{readyInside}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true, Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWUTS,
		UseCgroupFD: true, CgroupFD: int(cgroup.Fd()),
	}
	err = onOwnThread(func() error {
		if err := joinNamespace(netnsPath(netnsName(c.Name, node)), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return startDaemon(cmd)
	})
	readyInside.Close()
	if err != nil {
		return process{}, fmt.Errorf("start its first process: %w", err)
	}
	problem, err := io.ReadAll(ready)
	if err != nil || len(problem) > 0 {
		return process{}, fmt.Errorf("its first process: %s", strings.TrimSpace(string(problem)))
	}
	return identify(cmd.Process.Pid)
}

// daemonCommand prepares a process that outlives this one and writes to the log.
func daemonCommand(argv []string, log string) (*exec.Cmd, error) {
	f, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = daemonEnvironment()
	cmd.Stdout, cmd.Stderr = f, f
	return cmd, nil
}

// startDaemon starts the command, closes this process's end of its log, and starts
// a goroutine that reaps it if it ends before this process.
func startDaemon(cmd *exec.Cmd) error {
	err := cmd.Start()
	cmd.Stdout.(*os.File).Close()
	if err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }()
	return nil
}

// daemonEnvironment does not depend on the user who runs `skep up`, except for the
// PATH, on which containerd and runc are found; sbin is not always on a user's.
func daemonEnvironment() []string {
	env := []string{"PATH=" + searchPath(), "HOME=/root"}
	for _, name := range []string{"SSL_CERT_FILE", "SSL_CERT_DIR", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "https_proxy", "http_proxy", "no_proxy", "GOCOVERDIR"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

func searchPath() string {
	path := os.Getenv("PATH")
	for _, dir := range []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
		if !strings.Contains(":"+path+":", ":"+dir+":") {
			path = strings.TrimPrefix(path+":"+dir, ":")
		}
	}
	return path
}

// nameservers are the machine's own, without those on its loopback, which a host
// cannot reach. There is always one, since resolvers refuse an empty list: the
// bridge's address, where none answers.
func nameservers(subnet int) []string {
	var servers []string
	f, err := os.Open("/etc/resolv.conf")
	if err == nil {
		defer f.Close()
		for scanner := bufio.NewScanner(f); scanner.Scan(); {
			fields := strings.Fields(scanner.Text())
			if len(fields) < 2 || fields[0] != "nameserver" {
				continue
			}
			if addr, err := netip.ParseAddr(fields[1]); err == nil && !addr.IsLoopback() {
				servers = append(servers, addr.String())
			}
		}
	}
	if len(servers) == 0 {
		servers = append(servers, bridgeAddr(subnet).String())
	}
	return servers
}

func hostsFile(st *state) []string {
	lines := []string{"127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"}
	for _, node := range st.nodeNames() {
		lines = append(lines, st.addrs(node)[0].String()+" "+node)
	}
	return lines
}
