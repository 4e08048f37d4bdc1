// Package leader decides which skepd runs the scheduler and the controllers. It owns only
// the lease object that the skepds compete for, and the key of the leader's term. A leader that cannot renew in time stops
// its work before another may begin; and should it not, because it was paused, its writes are refused by the revision of the term's key.
package leader

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/util/retry"

	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

const (
	// LeaseName is the lease in kube-system that the leader holds.
	LeaseName = "skep-controllers"

	// releaseTimeout bounds the release of the lease.
	releaseTimeout = 3 * time.Second
	// lookAround is how often it is looked whether there are other servers.
	lookAround = time.Second
)

// timing is how long a lease counts, how long its holder tries to renew it, and how often it renews.
type timing struct{ lease, renew, retry time.Duration }

// A server without others is missed by nobody. Of several, one that is lost is replaced within about two seconds; that nothing is done twice
// does not depend on it, as the leader's writes are fenced.
var (
	alone   = timing{10 * time.Second, 7 * time.Second, 2 * time.Second}
	several = timing{time.Second, 800 * time.Millisecond, 200 * time.Millisecond}
)

// leading has kube-controller-manager's name.
var leading = promauto.NewGaugeVec(prometheus.GaugeOpts{
	Name: "leader_election_master_status", Help: "1 if this skepd runs the scheduler and the controllers.",
}, []string{"name"}).WithLabelValues(LeaseName)

// Identity returns the identity of the skepd whose data is in dir. It is made once and
// stored there: a skepd that was killed and starts again still holds the lease, and goes
// on without waiting for it to expire.
func Identity(dir string) (string, error) {
	path := filepath.Join(dir, "identity")
	data, err := os.ReadFile(path)
	if err == nil && strings.TrimSpace(string(data)) != "" {
		return strings.TrimSpace(string(data)), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read this skepd's identity: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("read this host's name: %w", err)
	}
	identity := host + "_" + string(uuid.NewUUID())
	if err := keep(path, identity); err != nil {
		return "", fmt.Errorf("write this skepd's identity: %w", err)
	}
	return identity, nil
}

// keep writes the identity so that after a crash the file is complete or missing.
func keep(path, identity string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".identity-*")
	if err != nil {
		return err
	}
	_, err = f.WriteString(identity + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// Run calls lead whenever this identity becomes the leader, with a context that
// ends when it no longer is, until ctx ends or lead returns an error, which Run
// returns. lead is never called again before it has returned. A leader that ends releases
// the lease, once lead has returned.
func Run(ctx context.Context, registry *resource.Registry, identity string, lead func(context.Context) error) error {
	return RunAmong(ctx, registry, identity, func() bool { return false }, lead)
}

// RunAmong is Run for a server that may have others beside it, which others says: then the lease is short.
func RunAmong(ctx context.Context, registry *resource.Registry, identity string, others func() bool, lead func(context.Context) error) error {
	for ctx.Err() == nil {
		if err := run(ctx, registry, identity, others, lead); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// endOnChange calls cancel when there are others for the first time, or none any more.
func endOnChange(ctx context.Context, others func() bool, before bool, cancel func()) {
	ticker := time.NewTicker(lookAround)
	defer ticker.Stop()
	for others() == before {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
	cancel()
}

// run competes for the lease once, and returns when it is lost or given up.
func run(parent context.Context, registry *resource.Registry, identity string, others func() bool, lead func(context.Context) error) error {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	times, among := alone, others()
	if among {
		times = several
	}
	go endOnChange(ctx, others, among, cancel)
	done := make(chan struct{})
	var failed error
	held := &lock{registry: registry, identity: identity}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock:          held,
		LeaseDuration: times.lease, RenewDeadline: times.renew, RetryPeriod: times.retry,
		Name: LeaseName,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) {
				defer close(done)
				defer cancel()
				fencedCtx, err := fence(ctx, registry, identity, cancel)
				if err != nil {
					if ctx.Err() == nil {
						slog.Warn("The leader's term is not begun; the lease is competed for again", "err", err)
					}
					return
				}
				leading.Set(1)
				defer leading.Set(0)
				failed = lead(fencedCtx)
			},
			OnStoppedLeading: func() {},
			OnNewLeader: func(name string) {
				slog.Info("Leader elected", "leader", name, "self", name == identity)
			},
		},
	})
	if err != nil {
		return fmt.Errorf("leader election: %w", err)
	}
	elector.Run(ctx)
	// If the lease was written, the elector calls lead, even after Run has returned.
	if !held.written {
		return nil
	}
	<-done
	if failed != nil || parent.Err() != nil {
		held.release(parent)
	}
	return failed
}

// release releases the lease, so that another skepd need not wait for it to expire.
func (l *lock) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	// A renewal that was cancelled may still be written in between.
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		record, _, err := l.Get(ctx)
		if err != nil || record.HolderIdentity != l.identity {
			return err
		}
		now := metav1.Now()
		return l.Update(ctx, resourcelock.LeaderElectionRecord{
			LeaderTransitions: record.LeaderTransitions, LeaseDurationSeconds: 1, RenewTime: now, AcquireTime: now,
		})
	})
	if err != nil {
		slog.Warn("The leader's lease could not be given up and runs out by itself", "lease", l.Describe(), "err", err)
	}
}

// lock is the lease, read and written through the registry.
type lock struct {
	registry *resource.Registry
	identity string
	lease    *coordinationv1.Lease
	written  bool // it has been written by this identity
}

// Get implements resourcelock.Interface.
func (l *lock) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	obj, err := l.registry.Get(ctx, kinds.Leases, metav1.NamespaceSystem, LeaseName, "")
	if err != nil {
		return nil, nil, err
	}
	l.lease = obj.(*coordinationv1.Lease).DeepCopy()
	record := resourcelock.LeaseSpecToLeaderElectionRecord(&l.lease.Spec)
	raw, err := json.Marshal(*record)
	return record, raw, err
}

// Create implements resourcelock.Interface.
func (l *lock) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	obj, err := l.registry.Create(ctx, kinds.Leases, &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: LeaseName},
		Spec:       resourcelock.LeaderElectionRecordToLeaseSpec(&record),
	}, resource.CreateOptions{})
	if err != nil {
		return err
	}
	l.lease, l.written = obj.(*coordinationv1.Lease).DeepCopy(), true
	return nil
}

// Update implements resourcelock.Interface. It is guarded by what Get read.
func (l *lock) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	if l.lease == nil {
		return errors.New("the lease has not been read yet")
	}
	next := l.lease.DeepCopy()
	next.Spec = resourcelock.LeaderElectionRecordToLeaseSpec(&record)
	obj, err := l.registry.Update(ctx, kinds.Leases, "", next, resource.UpdateOptions{})
	if err != nil {
		return err
	}
	l.lease, l.written = obj.(*coordinationv1.Lease).DeepCopy(), true
	return nil
}

// RecordEvent implements resourcelock.Interface; the log says who leads.
func (l *lock) RecordEvent(string) {}

// Identity implements resourcelock.Interface.
func (l *lock) Identity() string { return l.identity }

// Describe implements resourcelock.Interface.
func (l *lock) Describe() string { return metav1.NamespaceSystem + "/" + LeaseName }
