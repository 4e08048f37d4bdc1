package node

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/witness"
)

// evidenceChanged records what other nodes say of a node, by its condition. What they say declares no node silent: it says which
// nodes to look at before the grace has passed.
func (c *Controller) evidenceChanged(node *corev1.Node, now time.Time) {
	evidence := ""
	if cond := controller.NodeCondition(node, witness.Reachable); cond != nil && cond.Status == corev1.ConditionFalse {
		evidence = cond.LastHeartbeatTime.String() + cond.Message
	}
	if !c.health.accuse(node.Name, evidence, now) {
		return
	}
	if accused, earlyIn := c.health.isAccused(node.Name, now); accused {
		c.nodes.AddAfter(node.Name, max(earlyIn, 0))
	}
}

// judge declares a node silent: after the grace without a sign of it, or earlier if other nodes cannot reach it and neither can this host.
func (c *Controller) judge(ctx context.Context, node *corev1.Node) error {
	if err := c.expireEvidence(ctx, node); err != nil {
		return err
	}
	if overdue, _ := c.health.isOverdue(node.Name, c.clock.Now()); !overdue {
		return nil
	}
	if err := c.confirm(ctx, node.Name); err != nil {
		return err
	}
	overdue, early := c.health.isOverdue(node.Name, c.clock.Now())
	if !overdue || early && c.answers(ctx, node) {
		return nil
	}
	// It may have renewed its lease in the meantime.
	if overdue, early = c.health.isOverdue(node.Name, c.clock.Now()); !overdue {
		return nil
	}
	c.health.declare(node.Name)
	by := "lease"
	if early {
		by = "witnesses"
		slog.Warn("Node cannot be reached by the nodes that watch it, nor from here, and its lease is not renewed", "node", node.Name)
	}
	silences.WithLabelValues(by).Inc()
	return nil
}

// expireEvidence ends the condition of a node of which nobody says any more that it cannot be reached.
func (c *Controller) expireEvidence(ctx context.Context, node *corev1.Node) error {
	cond := controller.NodeCondition(node, witness.Reachable)
	if cond == nil || cond.Status != corev1.ConditionFalse {
		return nil
	}
	if accused, _ := c.health.isAccused(node.Name, c.clock.Now()); accused {
		c.nodes.AddAfter(node.Name, witness.Validity)
		return nil
	}
	_, err := c.registry.Modify(ctx, kinds.Nodes, "status", "", node.Name, resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		n := current.(*corev1.Node)
		cond := controller.NodeCondition(n, witness.Reachable)
		if accused, _ := c.health.isAccused(n.Name, c.clock.Now()); accused || n.UID != node.UID || cond == nil || cond.Status != corev1.ConditionFalse {
			return n, nil
		}
		n = n.DeepCopy()
		n.ResourceVersion = ""
		cond = controller.NodeCondition(n, witness.Reachable)
		cond.Status, cond.Reason = corev1.ConditionUnknown, witness.ReasonExpired
		cond.Message = fmt.Sprintf("no node has said for %s that it cannot reach it", witness.Validity)
		cond.LastTransitionTime = metav1.NewTime(c.clock.Now())
		return n, nil
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// noteHeldZones logs when early evictions stop or go on in a zone.
func (c *Controller) noteHeldZones(held map[string]int) {
	var list []string
	for _, zone := range slices.Sorted(maps.Keys(held)) {
		list = append(list, fmt.Sprintf("%s: %d", cmp.Or(zone, "nodes without a zone"), held[zone]))
	}
	zones := strings.Join(list, ", ")
	c.heldMu.Lock()
	changed := c.zones != zones
	c.zones = zones
	c.heldMu.Unlock()
	if !changed {
		return
	}
	heldZones.Set(float64(len(held)))
	if zones == "" {
		slog.Info("No zone has too many nodes that cannot be reached any more; early evictions go on")
		return
	}
	slog.Warn("Too many nodes of a zone cannot be reached at once; their pods are evicted only if their leases expire", "zones", zones)
}
