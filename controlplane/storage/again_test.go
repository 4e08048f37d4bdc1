package storage_test

import (
	"context"
	"errors"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/skep-io/skep/controlplane/storage"
)

// losing is an etcd whose leader is lost with some requests: before it has carried them out, or after.
type losing struct {
	clientv3.KV
	before, after int // so many of the next requests
}

func (l *losing) lose() (before, after bool) {
	switch {
	case l.before > 0:
		l.before--
		return true, false
	case l.after > 0:
		l.after--
		return false, true
	}
	return false, false
}

func (l *losing) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	if before, after := l.lose(); before || after {
		return nil, rpctypes.ErrLeaderChanged
	}
	return l.KV.Get(ctx, key, opts...)
}

func (l *losing) Txn(ctx context.Context) clientv3.Txn { return &losingTxn{l.KV.Txn(ctx), l} }

type losingTxn struct {
	clientv3.Txn
	l *losing
}

func (t *losingTxn) If(c ...clientv3.Cmp) clientv3.Txn  { t.Txn = t.Txn.If(c...); return t }
func (t *losingTxn) Then(o ...clientv3.Op) clientv3.Txn { t.Txn = t.Txn.Then(o...); return t }
func (t *losingTxn) Else(o ...clientv3.Op) clientv3.Txn { t.Txn = t.Txn.Else(o...); return t }
func (t *losingTxn) Commit() (*clientv3.TxnResponse, error) {
	before, after := t.l.lose()
	if before {
		return nil, rpctypes.ErrTimeoutDueToLeaderFail
	}
	resp, err := t.Txn.Commit()
	if after {
		return nil, rpctypes.ErrTimeoutDueToLeaderFail
	}
	return resp, err
}

// A write whose answer is lost with etcd's leader is made again where it cannot take effect twice; it is an error where its outcome stays
// unknown, and never a conflict with itself.
func TestLeaderLostOnTheWay(t *testing.T) {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{newServerProcess(t).endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	l := &losing{KV: client.KV}
	client.KV = l
	store, ctx := storage.NewEtcd(client), t.Context()
	put := func(key, value string, revision int64) (int64, error) {
		return store.Commit(ctx, []storage.Guard{{Key: key, ModRevision: revision}}, []storage.Op{{Key: key, Value: []byte(value)}})
	}
	want := func(key, value string) {
		t.Helper()
		if kv, err := store.Get(ctx, key); err != nil || string(kv.Value) != value {
			t.Errorf("%s is %q (%v), want %q", key, kv.Value, err, value)
		}
	}
	first, err := put("/registry/a", "1", 0)
	if err != nil {
		t.Fatal(err)
	}

	l.before = 2
	second, err := put("/registry/a", "2", first)
	if err != nil {
		t.Fatalf("an update that was lost before it was carried out: %v", err)
	}
	want("/registry/a", "2")

	l.after = 1
	conflict := new(storage.ConflictError)
	if _, err := put("/registry/a", "3", second); !errors.Is(err, rpctypes.ErrTimeoutDueToLeaderFail) || errors.As(err, &conflict) {
		t.Errorf("an update whose answer was lost: %v, want that its outcome is unknown", err)
	}
	want("/registry/a", "3")

	// It might be created twice: somebody may delete it in between.
	l.before = 1
	if _, err := put("/registry/b", "1", 0); !errors.Is(err, rpctypes.ErrTimeoutDueToLeaderFail) {
		t.Errorf("a creation that was lost: %v, want that its outcome is unknown", err)
	}
	l.before = 1
	if _, err := store.Commit(ctx, nil, []storage.Op{{Key: "/registry/c", Value: []byte("1")}}); !errors.Is(err, rpctypes.ErrTimeoutDueToLeaderFail) {
		t.Errorf("an unguarded write that was lost: %v, want that its outcome is unknown", err)
	}
	l.before = 100
	if _, err := put("/registry/a", "4", second); !errors.Is(err, rpctypes.ErrTimeoutDueToLeaderFail) {
		t.Errorf("an update that is lost again and again: %v", err)
	}

	l.before = 2
	want("/registry/a", "3")
	l.before = 2
	if _, err := store.Revision(ctx); err != nil {
		t.Errorf("the revision: %v", err)
	}
	l.before = 2
	if kvs, _, err := store.List(ctx, "/registry/"); err != nil || len(kvs) != 1 {
		t.Errorf("a list: %v, %v", kvs, err)
	}
}
