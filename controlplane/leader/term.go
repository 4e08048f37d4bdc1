package leader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/storage"
)

// termKey is written by each new leader. Its revision is a condition of all that the leader's loops write.
const termKey = "/skep/leader"

// errNotHolder says that the lease is another's already.
var errNotHolder = errors.New("another has the lease")

// fence begins the term of a leader that holds the lease: from then on no write of an earlier leader's loops is made, whenever it was sent.
// It returns the context of this leader's writes, for which the same holds once another has begun a term; lost is called then.
func fence(ctx context.Context, registry *resource.Registry, identity string, lost func()) (context.Context, error) {
	for {
		obj, err := registry.Get(ctx, kinds.Leases, metav1.NamespaceSystem, LeaseName, "")
		if err != nil {
			return nil, err
		}
		lease := obj.(*coordinationv1.Lease)
		if ptr.Deref(lease.Spec.HolderIdentity, "") != identity {
			return nil, errNotHolder
		}
		revision, err := strconv.ParseInt(lease.ResourceVersion, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("the revision of the lease: %w", err)
		}
		// Not if the lease has changed since: by a renewal, or because it is another's.
		held := storage.Guard{Key: kinds.Leases.Key(metav1.NamespaceSystem, LeaseName), ModRevision: revision}
		term, err := registry.Store().Commit(ctx, []storage.Guard{held}, []storage.Op{{Key: termKey, Value: []byte(identity)}})
		if errors.As(err, new(*storage.ConflictError)) {
			continue
		}
		if err != nil {
			return nil, err
		}
		slog.Info("Term of the leader begun", "self", identity, "revision", term)
		return storage.WithFence(ctx, storage.Guard{Key: termKey, ModRevision: term}, lost), nil
	}
}
