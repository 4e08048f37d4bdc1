package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/backoff"
	"github.com/skep-io/skep/durable"
)

// networkFile keeps the API server's answer about the cluster's network across restarts: pods are adopted whether or not it
// answers.
func networkFile(cfg Config) string { return filepath.Join(cfg.StateDir, "network") }

// readNetwork returns what networkFile has, nil if that is missing or cannot be read.
func readNetwork(cfg Config) *skepv1.Network {
	data, err := os.ReadFile(networkFile(cfg))
	if err != nil {
		return nil
	}
	var n skepv1.Network
	if err = json.Unmarshal(data, &n); err == nil {
		err = checkNetwork(n)
	}
	if err != nil {
		slog.Warn("the file of the cluster's network cannot be read; asking the API server", "path", networkFile(cfg), "err", err)
		return nil
	}
	return &n
}

func checkNetwork(n skepv1.Network) error {
	for name, ranges := range map[string][]netip.Prefix{"services": n.ServiceCIDRs, "pods": n.PodCIDRs, "added pods": n.AddedPodCIDRs} {
		if len(ranges) == 0 && name != "added pods" {
			return fmt.Errorf("no range of %s", name)
		}
		for _, r := range ranges {
			if !r.IsValid() || r != r.Masked() {
				return fmt.Errorf("range of %s: %q", name, r)
			}
		}
	}
	return nil
}

func writeNetwork(cfg Config, n skepv1.Network) error {
	data, err := json.Marshal(n)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(networkFile(cfg), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("keep the cluster's network: %w", err)
	}
	return nil
}

// askNetwork asks the API server until it answers.
func (m *membership) askNetwork(ctx context.Context) (n skepv1.Network, err error) {
	ask := backoff.Retry{
		First: 200 * time.Millisecond, Last: 5 * time.Second, Attrs: []any{"server", m.cfg.Server},
		Failing: "no cluster network settings from the API server; trying again", Working: "cluster network settings received from the API server",
		Final: func(err error) bool { return apierrors.IsNotFound(err) || apierrors.IsForbidden(err) },
	}
	err = ask.Do(ctx, func(ctx context.Context) (err error) {
		n, err = m.tryNetwork(ctx)
		return err
	})
	return n, err
}

func (m *membership) tryNetwork(ctx context.Context) (n skepv1.Network, err error) {
	data, err := m.client.CoreV1().RESTClient().Get().AbsPath(skepv1.PathNetwork).DoRaw(ctx)
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
		return n, fmt.Errorf("the API server does not say what the cluster's network is; if skepd is older than this agent, update it first: %w", err)
	}
	if err != nil {
		return n, err
	}
	if err := json.Unmarshal(data, &n); err != nil {
		return n, fmt.Errorf("unreadable answer of the API server to %s: %w", skepv1.PathNetwork, err)
	}
	return n, checkNetwork(n)
}

// learnNetwork sets the cluster's network for the components: from the file or, without one, from the API server.
func (m *membership) learnNetwork(ctx context.Context) error {
	known := readNetwork(m.cfg)
	if known == nil {
		n, err := m.askNetwork(ctx)
		if err != nil {
			return err
		}
		if err := writeNetwork(m.cfg, n); err != nil {
			return err
		}
		known = &n
	}
	m.network = *known
	m.ranges.begin(m.network)
	return m.cfg.checkRanges(m.network)
}

// keepNetwork compares the API server's answer with what the components use. If they differ, the agent restarts.
func (m *membership) keepNetwork(ctx context.Context) error {
	now, err := m.tryNetwork(ctx)
	if err != nil {
		slog.Warn("the cluster's network is not confirmed by the API server: the known ranges stay in use", "err", err)
		return nil
	}
	if len(now.ProbeKey) == 0 { // of a skepd that is older than the one that gave it
		now.ProbeKey = m.network.ProbeKey
	}
	if sameNetwork(now, m.network) {
		m.ranges.learn(m.cfg, now)
		return nil
	}
	now = m.ranges.merged(now)
	if err := writeNetwork(m.cfg, now); err != nil {
		return err
	}
	if !bytes.Equal(now.ProbeKey, m.network.ProbeKey) {
		return errors.New("the key that nodes probe each other with is another now: starting again")
	}
	return fmt.Errorf("the cluster's ranges are %s for services and %s for pods now, were %s and %s: starting again", now.ServiceCIDRs, now.PodCIDRs, m.network.ServiceCIDRs, m.network.PodCIDRs)
}

// sameNetwork says whether two answers differ in nothing that needs a restart.
func sameNetwork(a, b skepv1.Network) bool {
	return slices.Equal(a.ServiceCIDRs, b.ServiceCIDRs) && slices.Equal(a.PodCIDRs, b.PodCIDRs) && slices.Equal(a.DNS, b.DNS) && a.Domain == b.Domain && bytes.Equal(a.ProbeKey, b.ProbeKey)
}

// checkRanges refuses ranges given by flag that are not the cluster's.
func (cfg Config) checkRanges(n skepv1.Network) error {
	for _, r := range []struct {
		flag      string
		given, is []netip.Prefix
	}{{"--service-cidr", cfg.ServiceCIDRs, n.ServiceCIDRs}, {"--cluster-cidr", cfg.ClusterCIDRs, n.PodCIDRs}} {
		if len(r.given) > 0 && !slices.Equal(r.given, r.is) {
			return fmt.Errorf("%s %s: the cluster has %s; leave the flag out, since agents ask the API server", r.flag, r.given, r.is)
		}
	}
	return nil
}

// dns returns the name servers of pods and their cluster domain.
func (m *membership) dns() (servers []netip.Addr, domain string) {
	servers, domain = m.network.DNS, m.network.Domain
	if len(m.cfg.ClusterDNS) > 0 {
		servers = m.cfg.ClusterDNS
	}
	if m.cfg.ClusterDomain != "" {
		domain = m.cfg.ClusterDomain
	}
	return servers, domain
}
