package pod

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/agent/confine"
	"github.com/skep-io/skep/agent/pod/life"
)

// networkFile is the path on the node of one of the pod's files in /etc.
func (w *worker) networkFile(name string) string {
	return filepath.Join(w.pods.cfg.Runtime.EtcDir(w.uid), name)
}

// writeNetworkFiles writes hosts, resolv.conf and hostname once; a container
// may change them afterwards, for all containers of the pod.
func (w *worker) writeNetworkFiles(pod *corev1.Pod) error {
	w.filesMu.Lock()
	defer w.filesMu.Unlock()
	if err := os.MkdirAll(filepath.Dir(w.networkFile("hosts")), 0o755); err != nil {
		return fmt.Errorf("pod network files: %w", err)
	}
	resolv, err := w.resolvConf(pod)
	if err != nil {
		return err
	}
	for name, text := range map[string]string{
		"hostname":    w.hostname(pod) + "\n",
		"resolv.conf": resolv,
	} {
		if err := writeOnce(w.networkFile(name), text); err != nil {
			return err
		}
	}
	// The pod's address is assigned after the container is created; the file must exist for its
	// mount, and is filled in before the start.
	return writeOnce(w.networkFile("hosts"), "")
}

// writeHosts fills in /etc/hosts in place, since it is mounted already.
func (w *worker) writeHosts(pod *corev1.Pod, s *setup) error {
	w.filesMu.Lock()
	defer w.filesMu.Unlock()
	path := w.networkFile("hosts")
	if info, err := os.Stat(path); err == nil && info.Size() > 0 {
		return nil
	}
	text, err := w.hosts(pod, s.addrs)
	if err != nil {
		return err
	}
	f, err := confine.OpenRegular(path, os.O_WRONLY|os.O_TRUNC) // containers have it open, and may hold leases on it
	if err != nil {
		return fmt.Errorf("pod network files: %w", err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		return fmt.Errorf("pod network files: %w", err)
	}
	return nil
}

func writeOnce(path, text string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if os.IsExist(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pod network files: %w", err)
	}
	if _, err := f.WriteString(text); err != nil {
		f.Close()
		return fmt.Errorf("pod network files: %w", err)
	}
	return f.Close()
}

func (w *worker) hosts(pod *corev1.Pod, addrs []netip.Addr) (string, error) {
	var b strings.Builder
	if pod.Spec.HostNetwork {
		node, err := os.ReadFile("/etc/hosts")
		if err != nil {
			return "", fmt.Errorf("the node's hosts file: %w", err)
		}
		b.WriteString("# The node's hosts file\n")
		b.Write(node)
	} else {
		b.WriteString("# Hosts file of this pod\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
		host := podHostname(pod)
		names := host
		if pod.Spec.Subdomain != "" {
			names = fmt.Sprintf("%s.%s.%s.svc.%s\t%s", host, pod.Spec.Subdomain, pod.Namespace, w.pods.cfg.ClusterDomain, host)
		}
		for _, addr := range addrs {
			fmt.Fprintf(&b, "%s\t%s\n", addr, names)
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, alias := range pod.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", alias.IP, strings.Join(alias.Hostnames, "\t"))
		}
	}
	return b.String(), nil
}

// resolver is the content of a resolv.conf.
type resolver struct {
	servers, searches []string
	options           []corev1.PodDNSConfigOption
}

// Limits of resolvers, which silently ignore more.
const (
	maxServers  = 3
	maxSearches = 32
)

func (w *worker) resolvConf(pod *corev1.Pod) (string, error) {
	r, err := w.resolver(pod)
	if err != nil {
		return "", err
	}
	if d := pod.Spec.DNSConfig; d != nil {
		r.merge(d)
	}
	return r.String(), nil
}

func (w *worker) resolver(pod *corev1.Pod) (resolver, error) {
	policy := pod.Spec.DNSPolicy
	if policy == corev1.DNSClusterFirst && pod.Spec.HostNetwork {
		policy = corev1.DNSDefault
	}
	switch policy {
	case corev1.DNSNone:
		return resolver{}, nil
	case corev1.DNSDefault:
		return nodeResolver("/etc/resolv.conf")
	}
	if len(w.pods.cfg.ClusterDNS) == 0 {
		w.event(corev1.EventTypeWarning, "MissingClusterDNS", "pod: %q. this node has no cluster DNS address and cannot create Pod using %q policy. Falling back to %q policy.",
			life.Formatted(pod), policy, corev1.DNSDefault)
		return nodeResolver("/etc/resolv.conf")
	}
	domain := w.pods.cfg.ClusterDomain
	r := resolver{searches: []string{pod.Namespace + ".svc." + domain, "svc." + domain, domain}}
	for _, server := range w.pods.cfg.ClusterDNS {
		r.servers = append(r.servers, server.String())
	}
	ndots := "5"
	r.options = []corev1.PodDNSConfigOption{{Name: "ndots", Value: &ndots}}
	if node, err := nodeResolver("/etc/resolv.conf"); err == nil {
		r.searches = append(r.searches, node.searches...)
	}
	return r, nil
}

func nodeResolver(path string) (resolver, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return resolver{}, fmt.Errorf("the node's resolver configuration: %w", err)
	}
	var r resolver
	for _, line := range strings.Split(string(data), "\n") {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			r.servers = append(r.servers, fields[1])
		case "search":
			r.searches = nil
			for _, s := range fields[1:] {
				if s != "." {
					r.searches = append(r.searches, strings.TrimSuffix(s, "."))
				}
			}
		case "options":
			for _, o := range fields[1:] {
				name, value, has := strings.Cut(o, ":")
				option := corev1.PodDNSConfigOption{Name: name}
				if has {
					option.Value = &value
				}
				r.options = append(r.options, option)
			}
		}
	}
	return r, nil
}

// merge adds the pod's own settings; its options replace those of the same name.
func (r *resolver) merge(d *corev1.PodDNSConfig) {
	r.servers = appendNew(r.servers, d.Nameservers)
	r.searches = appendNew(r.searches, d.Searches)
	for _, option := range d.Options {
		replaced := false
		for i := range r.options {
			if r.options[i].Name == option.Name {
				r.options[i], replaced = option, true
			}
		}
		if !replaced {
			r.options = append(r.options, option)
		}
	}
}

func appendNew(list, more []string) []string {
	for _, s := range more {
		known := false
		for _, have := range list {
			known = known || have == s
		}
		if !known {
			list = append(list, s)
		}
	}
	return list
}

func (r resolver) String() string {
	var b strings.Builder
	if s := r.searches; len(s) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(s[:min(len(s), maxSearches)], " "))
	}
	for _, server := range r.servers[:min(len(r.servers), maxServers)] {
		fmt.Fprintf(&b, "nameserver %s\n", server)
	}
	if len(r.options) > 0 {
		b.WriteString("options")
		for _, o := range r.options {
			b.WriteString(" " + o.Name)
			if o.Value != nil && *o.Value != "" {
				b.WriteString(":" + *o.Value)
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}
