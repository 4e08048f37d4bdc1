package cluster

import (
	"crypto/sha256"
	"fmt"
	"net"
	"regexp"
	"strconv"
)

const (
	// DefaultName is the cluster of commands without a name.
	DefaultName = "default"
	// DefaultNodes is the number of hosts when none is asked for.
	DefaultNodes = 3
	// MaxNodes is how many addresses the /24 has from .11 to the load balancers' .200.
	MaxNodes = 189

	apiPort = 6443
)

var nameFormat = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$`)

// ValidateName refuses names that cannot be part of a namespace, cgroup and link name.
func ValidateName(name string) error {
	if !nameFormat.MatchString(name) {
		return fmt.Errorf("cluster name %q: want 1 to 40 lower-case letters, digits and dashes, with a letter or digit at both ends", name)
	}
	return nil
}

// linkID is the part of link names that distinguishes clusters: interface names
// have at most 15 characters, so longer cluster names are hashed.
func linkID(name string) string {
	if len(name) <= 8 {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return fmt.Sprintf("%x", sum[:4])
}

func bridgeName(name string) string { return "skep-" + linkID(name) }

func portName(name string, index int) string {
	return "sk-" + linkID(name) + "-" + strconv.Itoa(index)
}

// linkAlias marks a link as this cluster's, so that another program's link of the
// same name is never taken for it.
func linkAlias(name string) string { return "skep cluster " + name }

func nodeName(index int) string { return "node" + strconv.Itoa(index) }

func netnsName(name, node string) string { return "skep-" + name + "-" + node }

// routerName is the namespace between the bridge and the hosts behind it.
const routerName = "router"

// netnsPattern matches the namespaces of this cluster only: cluster "a" has
// skep-a-node1, while skep-a-b-node1 belongs to "a-b".
func netnsPattern(name string) *regexp.Regexp {
	return regexp.MustCompile(`^skep-` + regexp.QuoteMeta(name) + `-(node[0-9]+|` + routerName + `)$`)
}

func clusterCgroup(name string) string { return "/skep-" + name }

func nodeCgroup(name, node string) string { return clusterCgroup(name) + "/" + node }

// nodeMAC is stable over reboots of the host, so its neighbours' ARP entries stay valid.
func nodeMAC(name string, index int) net.HardwareAddr {
	sum := sha256.Sum256([]byte(name))
	return net.HardwareAddr{0x02, sum[0], sum[1], sum[2], byte(index >> 8), byte(index)}
}
