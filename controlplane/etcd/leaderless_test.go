package etcd

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// A member that the others do not reach sends its readers away, and takes them again when it has a leader: cluster DNS would go on with
// what it knew, for as long as the member is cut off.
func TestLeaderlessMemberEndsWatches(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	a, second, peer, _ := invite(ctx, t, "127.77.2")
	defer a.Close()
	b, err := Start(ctx, Config{DataDir: second, Name: "b", Peer: peer})
	if err != nil {
		t.Fatal(err)
	}
	ca := newAuthority(t)
	client := door(t, a, ca)(ca.config(t, "skep-dns"))
	watch := client.Watch(ctx, "/registry/services/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	if created := <-watch; !created.Created {
		t.Fatalf("watch began with %+v", created)
	}
	// Elections are shorter than leaderlessAfter, and end nothing.
	if !a.HasLeader() {
		t.Error("a has no leader while both run")
	}

	b.Close() // of two, one alone is a minority
	began := time.Now()
	select {
	case resp, ok := <-watch:
		if ok && !errors.Is(resp.Err(), rpctypes.ErrNoLeader) {
			t.Errorf("the watch got %+v", resp)
		}
	case <-ctx.Done():
		t.Fatal("the watch of a member without a leader goes on")
	}
	t.Logf("the watch ended %v after the other member", time.Since(began).Round(time.Millisecond))
	asking, stop := context.WithTimeout(ctx, 2*time.Second)
	defer stop()
	if _, err := client.Get(asking, "/registry/services/a", clientv3.WithSerializable()); err == nil {
		t.Error("a member without a leader answers a read")
	}

	peer.Members = nil // it is a member
	b, err = Start(ctx, Config{DataDir: second, Name: "b", Peer: peer})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for ctx.Err() == nil {
		asking, stop := context.WithTimeout(ctx, 2*time.Second)
		_, err = client.Get(asking, "/registry/services/a")
		stop()
		if err == nil {
			return
		}
	}
	t.Errorf("with a leader again: %v", err)
}
