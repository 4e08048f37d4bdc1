package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/skep-io/skep/agent/node"
	"github.com/skep-io/skep/dataplane/kernelfloor"
	"github.com/skep-io/skep/durable"
)

// Check returns an error that says in one line what the host lacks and what to do about it.
func Check(cfg Config) error {
	if os.Geteuid() != 0 {
		return errors.New("must be root: run it with sudo, or as a systemd service")
	}
	if err := kernelfloor.Check(); err != nil {
		return err
	}
	if _, err := cgroup2Root(); err != nil {
		return err
	}
	if err := checkInterfaces(cfg); err != nil {
		return err
	}
	needed := []string{"runc"}
	if cfg.ContainerdAddress == "" {
		needed = append(needed, "containerd")
	}
	for _, name := range needed {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("%s is not in PATH: install it (Debian: apt install containerd runc)", name)
		}
	}
	return nil
}

// cgroup2Root is where the v2 tree is mounted, alone or beside v1's.
func cgroup2Root() (string, error) {
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir, nil
		}
	}
	return "", errors.New("no cgroup v2 at /sys/fs/cgroup or /sys/fs/cgroup/unified: mount it with mount -t cgroup2 none /sys/fs/cgroup/unified")
}

// mountBPF mounts a BPF file system for the folder of pins, unless that is on one.
func mountBPF(dir string) error {
	const usual = "/sys/fs/bpf"
	mountPoint := filepath.Dir(dir)
	if strings.HasPrefix(dir, usual+"/") {
		mountPoint = usual
	}
	var st unix.Statfs_t
	for at := dir; ; at = filepath.Dir(at) { // the nearest folder that exists
		err := unix.Statfs(at, &st)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.ENOENT) || at == "/" {
			return fmt.Errorf("folder for BPF pins %s: %w", dir, err)
		}
	}
	if st.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	if err := os.MkdirAll(mountPoint, 0o755); err != nil {
		return fmt.Errorf("folder for BPF pins: %w", err)
	}
	if err := unix.Mount("bpf", mountPoint, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount a BPF file system at %s: %w", mountPoint, err)
	}
	return nil
}

// ownAddresses are this host's address on the route to the API server and, if the cluster has a second family, one of that
// family on the same interface.
func ownAddresses(server string, podCIDRs []netip.Prefix) ([]netip.Addr, error) {
	primary, err := addressTowards(server)
	if err != nil {
		return nil, err
	}
	addrs := []netip.Addr{primary}
	for _, cidr := range podCIDRs {
		if cidr.Addr().Is4() == primary.Is4() {
			continue
		}
		if second, ok := addressBeside(primary, cidr.Addr().Is4()); ok {
			addrs = append(addrs, second)
		}
	}
	return addrs, nil
}

// addressBeside is a permanent address of the other family on the interface that has primary.
func addressBeside(primary netip.Addr, is4 bool) (netip.Addr, bool) {
	all, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return netip.Addr{}, false
	}
	link := slices.IndexFunc(all, func(a netlink.Addr) bool { return a.IP.Equal(primary.AsSlice()) })
	for _, a := range all {
		addr, ok := netip.AddrFromSlice(a.IP)
		addr = addr.Unmap()
		passing := a.Flags&(unix.IFA_F_TEMPORARY|unix.IFA_F_DEPRECATED|unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0
		if ok && link >= 0 && a.LinkIndex == all[link].LinkIndex && addr.Is4() == is4 && addr.IsGlobalUnicast() && !passing {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// addressTowards is this host's address on the route to the API server.
func addressTowards(server string) (netip.Addr, error) {
	u, err := url.Parse(server)
	if err != nil || u.Hostname() == "" {
		return netip.Addr{}, fmt.Errorf("--server %q is not a URL", server)
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	// Connecting a datagram socket sends nothing: it only asks for the route.
	conn, err := net.Dial("udp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("this host's address on the way to %s: %w; give it with --node-ip", server, err)
	}
	defer conn.Close()
	addr := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
	if addr.IsLoopback() {
		return addr, fmt.Errorf("the way to %s leads over loopback: give this host's address with --node-ip", server)
	}
	return addr, nil
}

// ownPorts are the agent's port and, on the API server's host, the API server's.
func ownPorts(apiServer string, nodeIPs []netip.Addr) []uint16 {
	ports := []uint16{Port}
	u, err := url.Parse(apiServer)
	if err != nil {
		return ports
	}
	server, err := netip.ParseAddr(u.Hostname())
	port, portErr := strconv.ParseUint(u.Port(), 10, 16)
	if err == nil && portErr == nil && slices.Contains(nodeIPs, server.Unmap()) {
		ports = append(ports, uint16(port))
	}
	return ports
}

func newClient(cfg Config, identity *node.Identity, servers *servers) (kubernetes.Interface, error) {
	dialer := newDialer(servers)
	client, err := kubernetes.NewForConfig(&rest.Config{
		Host: cfg.Server,
		// Files rather than their contents: client-go reads a renewed certificate from them.
		TLSClientConfig: rest.TLSClientConfig{CAFile: identity.CAFile(), CertFile: identity.CertFile(), KeyFile: identity.KeyFile(), ServerName: serverName},
		UserAgent:       "skep-agent/" + cfg.Version,
		ContentConfig: rest.ContentConfig{
			AcceptContentTypes: "application/vnd.kubernetes.protobuf,application/json",
			ContentType:        "application/vnd.kubernetes.protobuf",
		},
		QPS:  -1, // the API server limits; a limit here would delay leases behind events
		Dial: dialer.dial,
		WrapTransport: func(t http.RoundTripper) http.RoundTripper {
			return &boundedTransport{RoundTripper: t, bound: apiTimeout, reason: dialer.reason, unanswered: dialer.leave}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("client of the API server: %w", err)
	}
	return client, nil
}

// podCIDRFile keeps the pod ranges across restarts: pods with addresses of them may be running.
func podCIDRFile(cfg Config) string { return filepath.Join(cfg.StateDir, "pod-cidr") }

func readPodCIDRs(cfg Config) ([]netip.Prefix, bool) {
	data, err := os.ReadFile(podCIDRFile(cfg))
	if err != nil {
		return nil, false
	}
	fields := strings.Fields(string(data))
	if len(fields) < 2 || fields[0] != cfg.NodeName {
		slog.Warn("the file of pod ranges is not this node's; asking the API server", "path", podCIDRFile(cfg), "node", cfg.NodeName)
		return nil, false
	}
	var ranges []netip.Prefix
	for _, field := range fields[1:] {
		p, err := netip.ParsePrefix(field)
		if err != nil {
			slog.Warn("the file of this node's pod ranges cannot be read; asking the API server", "path", podCIDRFile(cfg), "err", err)
			return nil, false
		}
		ranges = append(ranges, p)
	}
	return ranges, true
}

func writePodCIDRs(cfg Config, ranges []netip.Prefix) error {
	line := cfg.NodeName
	for _, p := range ranges {
		line += " " + p.String()
	}
	if err := durable.WriteFile(podCIDRFile(cfg), []byte(line+"\n"), 0o600); err != nil {
		return fmt.Errorf("keep the node's pod range: %w", err)
	}
	return nil
}

// lockHost keeps a second agent from using the folder; it waits for one that is just ending.
func lockHost(runDir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(runDir, "agent.lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("agent's lock: %w", err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if time.Now().After(deadline) {
			f.Close()
			return nil, fmt.Errorf("another skep-agent uses %s: stop it first", runDir)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
