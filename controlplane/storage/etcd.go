package storage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// listPage is how many keys one request of List fetches: a bound on the size of
// a response, far above what a usual prefix holds.
const listPage = 2000

// revisionKey is read to learn the store's revision; it never has a value.
const revisionKey = "/skep/revision"

// Etcd is the store in an etcd cluster.
type Etcd struct {
	client *clientv3.Client
	leases *leases
	within time.Duration // an answer must come
}

var _ Interface = (*Etcd)(nil)

// callTimeout bounds one request to etcd. An etcd that is stopped, or whose disk hangs,
// accepts requests and never answers; loops set no timeout of their own.
const callTimeout = 30 * time.Second

// bounded returns the context for one request, and a function that converts the error
// that the request ends with.
func bounded(ctx context.Context, operation string, within time.Duration) (context.Context, func(error) error) {
	began := time.Now()
	limited, cancel := context.WithTimeout(ctx, within)
	return limited, func(err error) error {
		defer cancel()
		observed(ctx, operation, began, err)
		if err != nil && errors.Is(limited.Err(), context.DeadlineExceeded) && ctx.Err() == nil {
			return fmt.Errorf("etcd has not answered for %v: %w", within, err)
		}
		return err
	}
}

// NewEtcd stores through client, which the caller closes.
func NewEtcd(client *clientv3.Client) *Etcd {
	return &Etcd{client: client, leases: newLeases(client), within: callTimeout}
}

// Get implements Interface.
func (e *Etcd) Get(ctx context.Context, key string) (KeyValue, error) {
	limited, done := bounded(ctx, "get", e.within)
	resp, err := e.read(limited, key)
	if err = done(err); err != nil {
		return KeyValue{}, fmt.Errorf("get %s from etcd: %w", key, err)
	}
	if len(resp.Kvs) == 0 {
		return KeyValue{}, fmt.Errorf("get %s from etcd: %w", key, ErrNotFound)
	}
	kv := resp.Kvs[0]
	return KeyValue{Key: key, Value: kv.Value, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision}, nil
}

// read reads, also past a change of etcd's leader.
func (e *Etcd) read(ctx context.Context, key string, opts ...clientv3.OpOption) (resp *clientv3.GetResponse, err error) {
	err = again(ctx, func() error {
		resp, err = e.client.Get(ctx, key, opts...)
		return err
	})
	return resp, err
}

// List implements Interface.
func (e *Etcd) List(ctx context.Context, prefix string) ([]KeyValue, int64, error) {
	for {
		kvs, revision, err := e.list(ctx, prefix)
		// The revision was compacted between two pages: start over at a newer one.
		if errors.Is(err, rpctypes.ErrCompacted) {
			continue
		}
		if err != nil {
			return nil, 0, fmt.Errorf("list %s in etcd: %w", prefix, err)
		}
		return kvs, revision, nil
	}
}

func (e *Etcd) list(ctx context.Context, prefix string) (kvs []KeyValue, revision int64, err error) {
	from, end := prefix, clientv3.GetPrefixRangeEnd(prefix)
	for {
		limited, done := bounded(ctx, "list", e.within)
		resp, err := e.read(limited, from, clientv3.WithRange(end), clientv3.WithLimit(listPage), clientv3.WithRev(revision))
		if err = done(err); err != nil {
			return nil, 0, err
		}
		if revision == 0 {
			revision = resp.Header.Revision
			kvs = make([]KeyValue, 0, resp.Count)
		}
		for _, kv := range resp.Kvs {
			kvs = append(kvs, KeyValue{Key: string(kv.Key), Value: kv.Value, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision})
		}
		if !resp.More {
			return kvs, revision, nil
		}
		from = kvs[len(kvs)-1].Key + "\x00"
	}
}

// Commit implements Interface.
func (e *Etcd) Commit(ctx context.Context, guards []Guard, ops []Op) (int64, error) {
	if len(guards) > MaxOps {
		return 0, fmt.Errorf("commit to etcd: %d guards are more than a transaction takes", len(guards))
	}
	guards, fence := fenced(ctx, guards)
	compares := make([]clientv3.Cmp, len(guards))
	current := make([]clientv3.Op, len(guards))
	for i, g := range guards {
		compares[i], current[i] = g.compare()
	}
	then := make([]clientv3.Op, len(ops))
	for i, op := range ops {
		etcdOp, err := e.op(ctx, op)
		if err != nil {
			return 0, err
		}
		then[i] = etcdOp
	}
	if then = nest(then, len(guards)); len(then) > txnOps {
		return 0, fmt.Errorf("commit to etcd: %d guards and %d ops are more than a transaction may have", len(guards), len(ops))
	}
	limited, done := bounded(ctx, "commit", e.within)
	var lost error
	commit := func() (resp *clientv3.TxnResponse, err error) {
		return e.client.Txn(limited).If(compares...).Then(then...).Else(current...).Commit()
	}
	resp, err := commit()
	if leaderLost(err) && onceOnly(guards, ops) {
		lost = err
		err = again(limited, func() error {
			resp, err = commit()
			return err
		})
	}
	if err == nil && !resp.Succeeded && lost != nil {
		err = lost // the earlier attempt may be what its guards conflict with
	}
	if err = done(err); err != nil {
		if errors.Is(err, rpctypes.ErrLeaseNotFound) {
			e.leases.forget()
		}
		if errors.Is(err, rpctypes.ErrRequestTooLarge) {
			err = fmt.Errorf("%w: %w", ErrTooLarge, err)
		}
		return 0, fmt.Errorf("commit to etcd: %w", err)
	}
	if resp.Succeeded {
		return resp.Header.Revision, nil
	}
	conflict := &ConflictError{}
	for i, r := range resp.Responses {
		if kvs := r.GetResponseRange().GetKvs(); !guards[i].holds(kvs) {
			conflict.Keys = append(conflict.Keys, guards[i].Key)
		}
	}
	if fence.refused(conflict) {
		return 0, fmt.Errorf("commit to etcd: %w", ErrFenced)
	}
	return 0, conflict
}

// maxParts is how many nested transactions the ops of one transaction are split into at most.
const maxParts = 16

// nest splits ops that are too many for one transaction into nested transactions, each of
// which etcd allows the ops that the outer one has not used.
func nest(ops []clientv3.Op, guards int) []clientv3.Op {
	room := MaxOps - max(guards, maxParts)
	if len(ops) <= MaxOps || len(ops) > room*maxParts {
		return ops
	}
	var parts []clientv3.Op
	for part := range slices.Chunk(ops, room) {
		parts = append(parts, clientv3.OpTxn(nil, part, nil))
	}
	return parts
}

// compare returns the guard as etcd checks it, and what to read to know afterwards whether it held.
func (g Guard) compare() (clientv3.Cmp, clientv3.Op) {
	if g.Below {
		// etcd treats a range without keys as one key that was never put.
		return clientv3.Compare(clientv3.ModRevision(g.Key), "<", g.ModRevision+1).WithPrefix(),
			clientv3.OpGet(g.Key, clientv3.WithPrefix(), clientv3.WithKeysOnly(), clientv3.WithMinModRev(g.ModRevision+1), clientv3.WithLimit(1))
	}
	return clientv3.Compare(clientv3.ModRevision(g.Key), "=", g.ModRevision), clientv3.OpGet(g.Key, clientv3.WithKeysOnly())
}

// holds says whether the guard holds for what was read.
func (g Guard) holds(kvs []*mvccpb.KeyValue) bool {
	if g.Below {
		return len(kvs) == 0
	}
	revision := int64(0)
	if len(kvs) > 0 {
		revision = kvs[0].ModRevision
	}
	return revision == g.ModRevision
}

func (e *Etcd) op(ctx context.Context, op Op) (clientv3.Op, error) {
	switch {
	case op.Delete:
		return clientv3.OpDelete(op.Key), nil
	case op.TTL > 0:
		lease, err := e.leases.get(ctx, op.TTL)
		if err != nil {
			return clientv3.Op{}, err
		}
		return clientv3.OpPut(op.Key, string(op.Value), clientv3.WithLease(lease)), nil
	}
	return clientv3.OpPut(op.Key, string(op.Value)), nil
}

// Revision implements Interface.
func (e *Etcd) Revision(ctx context.Context) (int64, error) {
	limited, done := bounded(ctx, "revision", e.within)
	resp, err := e.read(limited, revisionKey, clientv3.WithCountOnly())
	if err = done(err); err != nil {
		return 0, fmt.Errorf("read etcd's revision: %w", err)
	}
	return resp.Header.Revision, nil
}

// RequestProgress implements Interface.
func (e *Etcd) RequestProgress(ctx context.Context, prefix string) error {
	limited, done := bounded(watchContext(ctx, prefix), "progress", e.within)
	if err := done(e.client.RequestProgress(limited)); err != nil {
		return fmt.Errorf("request progress of etcd's watch of %s: %w", prefix, err)
	}
	return nil
}

// Compact discards the history before revision. Embedded servers do this by
// themselves; it is for tools and tests.
func (e *Etcd) Compact(ctx context.Context, revision int64) error {
	if _, err := e.client.Compact(ctx, revision, clientv3.WithCompactPhysical()); err != nil {
		return fmt.Errorf("compact etcd at revision %d: %w", revision, err)
	}
	return nil
}
