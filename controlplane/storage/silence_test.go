package storage_test

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skep-io/skep/controlplane/storage"
)

// frozenLink passes bytes between an etcd and its clients until it is frozen: then connections stay open, and no bytes pass, as when etcd
// is stopped or its disk hangs.
type frozenLink struct {
	net.Listener
	mu     sync.RWMutex // held for writing while frozen
	frozen bool
}

func newFrozenLink(t *testing.T, to string) *frozenLink {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &frozenLink{Listener: listener}
	t.Cleanup(func() { l.thaw(); listener.Close() })
	pass := func(from, to net.Conn) {
		defer from.Close()
		defer to.Close()
		_, _ = io.Copy(writerFunc(func(p []byte) (int, error) {
			l.mu.RLock()
			defer l.mu.RUnlock()
			return to.Write(p)
		}), from)
	}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				client.Close()
				return
			}
			go pass(client, server)
			go pass(server, client)
		}
	}()
	return l
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func (l *frozenLink) freeze() {
	l.mu.Lock()
	l.frozen = true
}

func (l *frozenLink) thaw() {
	if l.frozen {
		l.frozen = false
		l.mu.Unlock()
	}
}

// When etcd stops answering, every request fails in bounded time, and works again when etcd does.
func TestEtcdThatNeverAnswers(t *testing.T) {
	server := newServerProcess(t)
	link := newFrozenLink(t, strings.TrimPrefix(server.endpoint, "http://"))
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	client, err := storage.Dial(ctx, storage.DialConfig{Endpoints: []string{"http://" + link.Addr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	store := storage.NewEtcd(client)
	store.SetBound(500 * time.Millisecond)
	requests := map[string]func() error{
		"get":      func() error { _, err := store.Get(ctx, "/a"); return err },
		"list":     func() error { _, _, err := store.List(ctx, "/a/"); return err },
		"revision": func() error { _, err := store.Revision(ctx); return err },
		"commit": func() error {
			_, err := store.Commit(ctx, nil, []storage.Op{{Key: "/a", Value: []byte("x")}})
			return err
		},
	}
	link.freeze()
	for name, request := range requests {
		if err := request(); err == nil || !strings.Contains(err.Error(), "etcd has not answered for 500ms") {
			t.Errorf("%s: %v", name, err)
		}
	}
	link.thaw()
	store.SetBound(time.Minute)
	for name, request := range requests {
		if err := request(); err != nil && name != "get" {
			t.Errorf("%s afterwards: %v", name, err)
		}
	}
}
