package storage

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// leaseKeys bounds how many keys share a lease, since etcd deletes them in one transaction.
	leaseKeys = 1000
	// leaseSlack bounds how much longer than asked a key may live.
	leaseSlack = time.Minute
)

// leases returns etcd leases that many keys share: a lease for each key would cost more
// than the key.
type leases struct {
	client *clientv3.Client

	mu      sync.Mutex
	current map[time.Duration]*lease
}

type lease struct {
	id clientv3.LeaseID
	// until is when a key with the bucket's TTL no longer fits: the end of the lease minus the TTL.
	until time.Time
	keys  int
}

func newLeases(client *clientv3.Client) *leases {
	return &leases{client: client, current: map[time.Duration]*lease{}}
}

// get returns a lease that lives at least ttl from now.
func (l *leases) get(ctx context.Context, ttl time.Duration) (clientv3.LeaseID, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if shared := l.current[ttl]; shared != nil && shared.keys < leaseKeys && now.Before(shared.until) {
		shared.keys++
		return shared.id, nil
	}
	slack := min(leaseSlack, ttl/20)
	seconds := int64(math.Ceil((ttl + slack).Seconds()))
	limited, done := bounded(ctx, "lease", callTimeout)
	granted, err := l.client.Grant(limited, seconds)
	if err = done(err); err != nil {
		return 0, fmt.Errorf("grant an etcd lease of %d s: %w", seconds, err)
	}
	l.current[ttl] = &lease{id: granted.ID, until: now.Add(slack), keys: 1}
	return granted.ID, nil
}

// forget drops all leases: one had expired already, so the clocks disagree.
func (l *leases) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.current)
}
