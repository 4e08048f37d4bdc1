package podnet

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// watchedNamespace is a namespace that a watch follows, with each socket that it subscribes by.
type watchedNamespace struct {
	*namespace
	watch   *HostWatch
	changes *HostChanges
	sockets chan *nl.NetlinkSocket
}

func newWatchedNamespace(t *testing.T) *watchedNamespace {
	w := &watchedNamespace{namespace: newNamespace(t), watch: NewHostWatch(), sockets: make(chan *nl.NetlinkSocket, 64)}
	w.watch.subscribe = func() (*nl.NetlinkSocket, error) {
		s, err := subscribeHost()
		if err == nil {
			w.sockets <- s
		}
		return s, err
	}
	w.changes = w.watch.Follow()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Try(func() error { w.watch.Run(ctx); return nil }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	w.awaitScan(t, "at the start")
	return w
}

// awaitScan returns when anything may have changed.
func (w *watchedNamespace) awaitScan(t *testing.T, why string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		change, err := w.changes.Next(ctx, 0)
		if err != nil {
			t.Fatalf("%s: no scan: %v", why, err)
		}
		if change == anyHostChange {
			return
		}
	}
}

// awaitAddress fails unless a new address is seen.
func (w *watchedNamespace) awaitAddress(t *testing.T, address string) {
	t.Helper()
	w.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(address)
		if err != nil {
			return err
		}
		return netlink.AddrAdd(lo, addr)
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		change, err := w.changes.Next(ctx, 0)
		if err != nil {
			t.Fatalf("%s was not seen: %v", address, err)
		}
		if change.Addresses {
			return
		}
	}
}

// A kernel under load drops messages for a reader that is slow, and reports that once.
func TestAnOverrunSubscriptionBeginsAgainWithAScan(t *testing.T) {
	w := newWatchedNamespace(t)
	first := <-w.sockets
	if err := first.SetReceiveBufferSize(4096, false); err != nil {
		t.Fatal(err)
	}
	w.watch.mu.Lock() // blocks the reader
	w.Do(func() error {
		link, err := netlink.LinkByName("lo")
		for i := 0; err == nil && i < 64; i++ {
			err = netlink.LinkSetAlias(link, fmt.Sprint(i))
		}
		return err
	})
	w.watch.mu.Unlock()
	w.awaitScan(t, "after an overrun")
	select {
	case <-w.sockets:
	default:
		t.Error("no subscription took the place of the one that was overrun")
	}
	w.awaitAddress(t, "192.0.2.7/32")
}

func TestASubscriptionWhoseSocketFailsBeginsAgainWithAScan(t *testing.T) {
	w := newWatchedNamespace(t)
	(<-w.sockets).Close()
	w.awaitScan(t, "after the socket failed")
	w.awaitAddress(t, "192.0.2.7/32")
}

// While there is no subscription, the host is scanned each time that one is tried.
func TestTheHostIsScannedWhileTheKernelTakesNoSubscription(t *testing.T) {
	watch := NewHostWatch()
	refused := make(chan struct{}, 1024)
	watch.subscribe = func() (*nl.NetlinkSocket, error) { refused <- struct{}{}; return nil, unix.EMFILE }
	w := &watchedNamespace{changes: watch.Follow()}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); watch.Run(ctx) }()
	for range 3 {
		<-refused
		w.awaitScan(t, "without a subscription")
	}
	cancel()
	<-done
}

func TestAChangeThatWasNotFollowedComesAgain(t *testing.T) {
	watch := NewHostWatch()
	changes := watch.Follow()
	changes.Again(HostChange{Uplinks: true}, time.Millisecond)
	if change, err := changes.Next(t.Context(), 0); err != nil || change != (HostChange{Uplinks: true}) {
		t.Errorf("%+v, %v", change, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if change, err := changes.Next(ctx, 0); err != context.Canceled {
		t.Errorf("%+v, %v: nothing had changed", change, err)
	}
}
