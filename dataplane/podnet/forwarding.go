package podnet

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/google/nftables"
)

// DroppedForwarding names the packet filter chains of this network namespace whose policy is to drop what is forwarded, which
// Docker, among others, sets up. A rule of theirs may still let pods' packets pass; that cannot be determined here. Where
// bridged packets go through these chains too (see BridgedFiltering), they also drop what passes a bridge.
func DroppedForwarding() []string {
	var found []string
	if c, err := nftables.New(); err == nil {
		chains, err := c.ListChains()
		if err != nil {
			chains = nil // without nftables there are none
		}
		for _, chain := range chains {
			if chain.Hooknum != nil && *chain.Hooknum == *nftables.ChainHookForward && chain.Type == nftables.ChainTypeFilter &&
				chain.Policy != nil && *chain.Policy == nftables.ChainPolicyDrop && familyName[chain.Table.Family] != "" {
				found = append(found, fmt.Sprintf("nftables chain %s %s %s (policy drop)", familyName[chain.Table.Family], chain.Table.Name, chain.Name))
			}
		}
	}
	return append(found, legacyForwarding()...)
}

var familyName = map[nftables.TableFamily]string{
	nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6",
}

// legacyForwarding runs the tool of the older iptables, whose tables nothing else reads; only if such tables exist.
func legacyForwarding() (found []string) {
	for tables, command := range map[string]string{
		"/proc/net/ip_tables_names": "iptables-legacy", "/proc/net/ip6_tables_names": "ip6tables-legacy",
	} {
		names, err := os.ReadFile(tables)
		if err != nil || !strings.Contains(string(names), "filter") {
			continue
		}
		// Another program may hold the tables' lock for ever.
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		out, err := exec.CommandContext(ctx, command, "--wait", "20", "-S", "FORWARD").Output()
		cancel()
		if ctx.Err() != nil && err != nil {
			slog.Warn("packet filter not read", "command", command, "err", err)
		}
		if err == nil && strings.HasPrefix(string(out), "-P FORWARD DROP") {
			found = append(found, command+" chain FORWARD (policy DROP)")
		}
	}
	return found
}

// BridgedFiltering says whether packets that pass a bridge of this network namespace go through the packet filter chains as
// if they were routed: net.bridge.bridge-nf-call-iptables or -ip6tables is 1.
func BridgedFiltering() bool {
	for _, setting := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables"} {
		value, err := os.ReadFile("/proc/sys/net/bridge/" + setting)
		if err == nil && strings.TrimSpace(string(value)) == "1" {
			return true
		}
	}
	return false
}
