// Package witness says which nodes cannot be reached, by the statements of the nodes that probe them: who watches whom (Ring), what one
// node says of another (Sign, Verify), when two such statements are a verdict (Verdicts), and which nodes are taken out of the service
// maps for it (Eject). Agents and the control plane compute all of it from the same Node objects, so each can verify a verdict.
//
// It has no clock, no goroutines and no I/O: times are handed in. It never says whether an agent is alive, which is what leases are for.
package witness

import (
	"crypto/ed25519"
	"encoding/base64"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/controlplane/servicespec"
)

const (
	// Watchers is how many nodes watch each node, and how many each node watches.
	Watchers = 3
	// Needed is how many watchers of a node have to say that they cannot reach it.
	Needed = 2
	// Validity is how long a statement counts: a witness that still cannot reach the subject says so again before. Clocks of nodes
	// must not differ by more.
	Validity = time.Minute
	// Renewal is how often a witness repeats what it says of a node that it cannot reach.
	Renewal = 10 * time.Second
	// KeyAnnotation is where a Node has the public key of its statements, in base64. A node without one neither watches nor is watched.
	KeyAnnotation = "skep.io/witness-key"
)

// Node is a node as the rules of this package see it.
type Node struct {
	Name string
	// Key verifies the node's statements. Empty: its kernel answers no probes, or its agent is older.
	Key ed25519.PublicKey
	// Zone is topology.kubernetes.io/zone.
	Zone string
	// Alive is false once the control plane has not heard from the node's agent for the time of its lease: it watches nobody.
	Alive bool
	// Down says that the control plane has the node out of the service maps already.
	Down bool
}

// FromObject reads a Node object. A node at whose uplinks no program runs has no key here: nothing there answers probes.
func FromObject(obj *corev1.Node) Node {
	n := Node{Name: obj.Name, Zone: obj.Labels[corev1.LabelTopologyZone], Alive: true}
	if key, err := base64.StdEncoding.DecodeString(obj.Annotations[KeyAnnotation]); err == nil && len(key) == ed25519.PublicKeySize {
		n.Key = key
	}
	for _, c := range obj.Status.Conditions {
		switch c.Type {
		case corev1.NodeReady:
			n.Alive, n.Down = c.Status != corev1.ConditionUnknown, c.Status != corev1.ConditionTrue
		case servicespec.ServesOutside:
			if c.Status == corev1.ConditionFalse {
				n.Key = nil
			}
		}
	}
	return n
}
