package node

import (
	"context"
	"log/slog"
	"strconv"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane/servicespec"
)

const (
	leaseInterval = time.Second
	leaseSeconds  = 5
)

// RenewLease renews the node's lease every second until ctx ends: by an unconditional PUT, since no other client writes this
// lease. A renewal that takes too long is given up for the next, which has a later time. Run does it too.
func (n *Node) RenewLease(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	failing := false
	for {
		began := time.Now()
		err := n.writeLease(ctx)
		if ctx.Err() != nil || n.noteRemoval(err) {
			return
		}
		if err != nil && !failing {
			slog.Warn("node lease not renewed; trying every second", "node", n.cfg.Name, "err", err)
		}
		if err == nil {
			n.noteUnknown(false, nil)
		}
		if err == nil && failing {
			slog.Info("node lease renewed again", "node", n.cfg.Name)
		}
		if err == nil && n.cfg.Renewed != nil {
			n.cfg.Renewed(began.Add(leaseSeconds * time.Second))
		}
		failing = err != nil
		if !n.awaitRenewal(ctx, began, timer, failing) {
			return
		}
	}
}

// awaitRenewal waits until a second after the last renewal began, or less if others wait for what the lease reports.
func (n *Node) awaitRenewal(ctx context.Context, began time.Time, timer *time.Timer, failing bool) bool {
	timer.Reset(time.Until(began.Add(leaseInterval)))
	hurry := n.applied.hurry
	if failing {
		hurry = nil
	}
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		case <-hurry:
			timer.Reset(time.Until(began.Add(n.applied.gap())))
			hurry = nil
		}
	}
}

func (n *Node) writeLease(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*leaseInterval)
	defer cancel()
	n.mu.Lock()
	uid := n.uid
	n.mu.Unlock()
	leases := n.cfg.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	lease := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{
			Name: n.cfg.Name, Namespace: corev1.NamespaceNodeLease,
			Annotations: map[string]string{servicespec.AppliedAnnotation: strconv.FormatUint(n.applied.revision.Load(), 10)},
		},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity:       ptr.To(n.cfg.Name),
			LeaseDurationSeconds: ptr.To[int32](leaseSeconds),
			RenewTime:            ptr.To(metav1.NowMicro()),
		},
	}
	if uid != "" { // else not registered since the start yet: the lease has its owner already
		lease.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: n.cfg.Name, UID: uid}}
	}
	_, err := leases.Update(ctx, lease, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = leases.Create(ctx, lease, metav1.CreateOptions{})
	}
	return err
}
