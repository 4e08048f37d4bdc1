package main

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/validation"
	kubeletapis "k8s.io/kubelet/pkg/apis"

	"github.com/skep-io/skep/agent"
	"github.com/skep-io/skep/agent/eviction"
	"github.com/skep-io/skep/agent/garbage"
	"github.com/skep-io/skep/agent/sysctl"
)

// options are the values of flags.
type options struct {
	cfg                           agent.Config
	configFile                    string
	nodeIP, labels, clusterDNS    string
	serviceCIDR, clusterCIDR      string
	logLevel                      string
	stateDir, runDir, cgroup, bpf string
	uplinks, tableSizes           string
	kubeReserved, systemReserved  string
	eviction                      eviction.Settings
	evictionGrace                 int32 // seconds
}

// hostFlags set paths on this host; the subcommands that use these paths have the same flags.
func (o *options) hostFlags(command *cobra.Command) {
	f := command.Flags()
	f.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "node-labels" { // as kubelet calls it
			name = "labels"
		}
		return pflag.NormalizedName(name)
	})
	f.StringVar(&o.stateDir, "state-dir", "/var/lib/skep-agent", "Folder for what survives a reboot: certificate, pods, logs, containerd's data")
	f.StringVar(&o.runDir, "run-dir", "/run/skep-agent", "Folder for sockets and namespaces")
	f.StringVar(&o.cgroup, "cgroup", "/skep", "Cgroup, as a path under the cgroup root, below which pods live")
	f.StringVar(&o.bpf, "bpf-fs", "/sys/fs/bpf/skep", "Folder for BPF pins; a BPF file system is mounted if there is none")
	f.StringVar(&o.cfg.ContainerdAddress, "containerd-address", "", "Socket of a running containerd; an own one is started if empty")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
}

func (o *options) clusterFlags(command *cobra.Command) {
	f := command.Flags()
	f.StringVar(&o.cfg.Server, "server", "", "URL of the API server, https://ADDR:6443 (required)")
	f.StringVar(&o.cfg.Token, "token", os.Getenv("SKEP_TOKEN"), "Join token, from skepd's data folder; also taken from $SKEP_TOKEN; not needed once joined")
	f.Lookup("token").DefValue = ""
	f.StringVar(&o.configFile, "config", "", "File with a KubeletConfiguration (kubelet.config.k8s.io/v1beta1); flags that are given come before what it says")
	o.resourceFlags(command)
	f.StringVar(&o.cfg.NodeName, "node-name", "", "Name of the node; the host's name if empty")
	f.StringVar(&o.nodeIP, "node-ip", "", "Address of this host that the others reach; two, of different families, separated by a comma; those on the way to the API server if empty")
	f.StringVar(&o.uplinks, "uplink", "", "Interface that packets from outside arrive at, or several separated by commas; those with the node's address and default routes if empty")
	f.BoolVar(&o.cfg.GenericXDP, "generic-xdp", false, "Run the program at uplinks in the kernel's generic XDP, not the driver's own")
	f.BoolVar(&o.cfg.WatchHosts, "watch-hosts", true, "Probe other hosts and be probed, so that one that cannot be reached leaves the services within half a second, and not when its lease expires")
	f.BoolVar(&o.cfg.Clsact, "clsact", false, "Attach programs at pods' interfaces by clsact also where the kernel has tcx")
	f.StringVar(&o.tableSizes, "table-sizes", "", "Entries of the kernel's tables, for clusters that fill them: frontends=N,services=N,backends=N,slots=N,nodes=N,flows=N; those not named have their default")
	f.StringVar(&o.labels, "labels", "", "Labels of the node when it first joins, k=v,k=v; e.g. topology.kubernetes.io/zone=a (also --node-labels)")
	f.StringVar(&o.cfg.HookCgroup, "hook-cgroup", "/", "Cgroup v2, as a path under its root, whose sockets find services; / for the whole host")
	o.cfg.Garbage = garbage.Defaults()
	f.IntVar(&o.cfg.Garbage.HighThreshold, "image-gc-high-threshold", o.cfg.Garbage.HighThreshold, "Percent of the disk of images in use at which unused ones are removed; 100: never")
	f.IntVar(&o.cfg.Garbage.LowThreshold, "image-gc-low-threshold", o.cfg.Garbage.LowThreshold, "Percent of the disk in use down to which they are removed")
	f.DurationVar(&o.cfg.Garbage.MinimumAge, "minimum-image-ttl-duration", o.cfg.Garbage.MinimumAge, "How long an image has been here before it may be removed")
	f.DurationVar(&o.cfg.Garbage.MaximumAge, "image-maximum-gc-age", 0, "How long an image may be unused before it is removed though there is room; 0: for ever")
	f.StringVar(&o.clusterDNS, "cluster-dns", "", "Address of cluster DNS; several separated by commas; the tenth of the services' range if empty")
	f.StringVar(&o.cfg.ClusterDomain, "cluster-domain", "", "Suffix of service names; skepd's if empty")
	f.StringSliceVar(&o.cfg.AllowedUnsafeSysctls, "allowed-unsafe-sysctls", nil, "Kernel parameters, or prefixes of them that end in *, that pods may set beside the safe ones; of a pod's own namespaces only, separated by commas")
	f.StringVar(&o.serviceCIDR, "service-cidr", "", "Range of service addresses: refuse to start if skepd has another")
	f.StringVar(&o.clusterCIDR, "cluster-cidr", "", "Range of all pods' addresses: refuse to start if skepd's --pod-cidr is another")
}

// hostConfig returns the configuration by hostFlags.
func (o *options) hostConfig() (agent.Config, error) {
	cfg := o.cfg
	for name, path := range map[string]struct{ from, to *string }{
		"--state-dir": {&o.stateDir, &cfg.StateDir}, "--run-dir": {&o.runDir, &cfg.RunDir},
		"--cgroup": {&o.cgroup, &cfg.Cgroup}, "--bpf-fs": {&o.bpf, &cfg.BPFDir},
	} {
		if !filepath.IsAbs(*path.from) || filepath.Clean(*path.from) == "/" {
			return cfg, fmt.Errorf("%s %q: give an absolute path, and not /", name, *path.from)
		}
		*path.to = filepath.Clean(*path.from)
	}
	cfg.Version = version
	return cfg, nil
}

func (o *options) config() (agent.Config, error) {
	cfg, err := o.hostConfig()
	if err != nil {
		return cfg, err
	}
	if cfg.Server == "" {
		return cfg, errors.New("--server is missing: give the API server's URL, https://ADDR:6443")
	}
	if u, err := url.Parse(cfg.Server); err != nil || u.Scheme != "https" || u.Hostname() == "" {
		return cfg, fmt.Errorf("--server %q is not the URL of an API server: give https://ADDR:6443", cfg.Server)
	}
	if err := cfg.Garbage.Validate(); err != nil {
		return cfg, err
	}
	if cfg.NodeName == "" {
		host, err := os.Hostname()
		if err != nil {
			return cfg, fmt.Errorf("this host's name: %w; give --node-name", err)
		}
		cfg.NodeName = strings.ToLower(host)
	}
	if problems := validation.IsDNS1123Subdomain(cfg.NodeName); len(problems) > 0 {
		return cfg, fmt.Errorf("node name %q: %s; give another with --node-name", cfg.NodeName, problems[0])
	}
	if cfg.NodeIPs, err = parseFamilies("--node-ip", o.nodeIP, netip.ParseAddr, netip.Addr.Is4); err != nil {
		return cfg, err
	}
	for _, addr := range cfg.NodeIPs {
		if !addr.IsGlobalUnicast() || addr.Zone() != "" {
			return cfg, fmt.Errorf("--node-ip %s is no address that other hosts can reach: give one of this host's, like 192.168.1.11", addr)
		}
	}
	cfg.Uplinks = strings.FieldsFunc(o.uplinks, func(r rune) bool { return r == ',' || r == ' ' })
	if cfg.Labels, err = parseLabels(o.labels); err != nil {
		return cfg, err
	}
	for _, s := range strings.FieldsFunc(o.clusterDNS, func(r rune) bool { return r == ',' }) {
		addr, err := netip.ParseAddr(s)
		if err != nil {
			return cfg, fmt.Errorf("--cluster-dns %q is not an address: give that of the cluster's DNS service, like 10.96.0.10", s)
		}
		cfg.ClusterDNS = append(cfg.ClusterDNS, addr)
	}
	if err := o.tables(&cfg); err != nil {
		return cfg, err
	}
	if err := o.ranges(&cfg); err != nil {
		return cfg, err
	}
	if err := o.reserves(&cfg); err != nil {
		return cfg, err
	}
	if _, err := sysctl.NewAllowlist(cfg.AllowedUnsafeSysctls); err != nil {
		return cfg, fmt.Errorf("--allowed-unsafe-sysctls: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return cfg, fmt.Errorf("path of this program: %w", err)
	}
	cfg.LogCommand = []string{self, "logs", "--run-dir", cfg.RunDir}
	return cfg, nil
}

func (o *options) ranges(cfg *agent.Config) (err error) {
	isPrefix4 := func(p netip.Prefix) bool { return p.Addr().Is4() }
	for flag, r := range map[string]struct {
		text string
		to   *[]netip.Prefix
	}{"--service-cidr": {o.serviceCIDR, &cfg.ServiceCIDRs}, "--cluster-cidr": {o.clusterCIDR, &cfg.ClusterCIDRs}} {
		if *r.to, err = parseFamilies(flag, r.text, netip.ParsePrefix, isPrefix4); err != nil {
			return err
		}
		for _, p := range *r.to {
			if p != p.Masked() {
				return fmt.Errorf("%s %s has bits set past its prefix; did you mean %s?", flag, p, p.Masked())
			}
		}
	}
	return nil
}

// parseFamilies reads values separated by commas, at most one of each address family.
func parseFamilies[T any](flag, text string, parse func(string) (T, error), is4 func(T) bool) (list []T, err error) {
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		value, err := parse(part)
		if err != nil {
			return nil, fmt.Errorf("%s %q cannot be read: give one, or one of each family, separated by a comma: %w", flag, part, err)
		}
		for _, other := range list {
			if is4(other) == is4(value) {
				return nil, fmt.Errorf("%s %s: give one, or one of each family", flag, text)
			}
		}
		list = append(list, value)
	}
	return list, nil
}

// reserved says whether only Kubernetes defines the labels in a namespace.
func reserved(namespace string) bool {
	for _, of := range []string{"kubernetes.io", "k8s.io"} {
		if namespace == of || strings.HasSuffix(namespace, "."+of) {
			return true
		}
	}
	return false
}

func parseLabels(s string) (map[string]string, error) {
	labels := map[string]string{}
	for _, pair := range strings.FieldsFunc(s, func(r rune) bool { return r == ',' }) {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return nil, fmt.Errorf("--labels %q is not k=v: give pairs separated by commas, like topology.kubernetes.io/zone=a", pair)
		}
		if problems := append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...); len(problems) > 0 {
			return nil, fmt.Errorf("--labels %q: %s", pair, problems[0])
		}
		if namespace, _, _ := strings.Cut(key, "/"); reserved(namespace) && strings.Contains(key, "/") && !kubeletapis.IsKubeletLabel(key) {
			return nil, fmt.Errorf("--labels %q: %s is a label of Kubernetes' that a node may not give itself; it may give %s and those in %s; set others with skep label node",
				s, key, strings.Join(kubeletapis.KubeletLabels(), ", "), strings.Join(kubeletapis.KubeletLabelNamespaces(), ", "))
		}
		if _, twice := labels[key]; twice {
			return nil, fmt.Errorf("--labels %q gives %s a second value: give one", s, key)
		}
		labels[key] = value
	}
	return labels, nil
}
