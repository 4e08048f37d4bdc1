// Package source keeps an index equal to what an etcd with Kubernetes objects
// holds: it lists each kind once, follows it by watch, and lists again only when etcd has
// compacted events that it missed. It never writes to etcd, and it keeps the index while
// etcd does not answer: old answers are better than none.
package source

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"

	"github.com/skep-io/skep/backoff"
	"github.com/skep-io/skep/controlplane/storage"
)

// codec reads the kinds that answers are made from.
var codec = storage.NewProtobuf(types())

func types() *runtime.Scheme {
	s := runtime.NewScheme()
	utilruntime.Must(corev1.AddToScheme(s))
	utilruntime.Must(discoveryv1.AddToScheme(s))
	return s
}

// Feed is one kind of object to follow.
type Feed struct {
	Resource schema.GroupResource
	Path     string // where its objects are stored below the prefix
	Put      func(runtime.Object)
	Delete   func(namespace, name string)
}

// Observer is called with what the source does; every field may be nil.
type Observer struct {
	// Event is called once for each object that etcd reported.
	Event func(resource string)
	// Undecodable is called for a value that is not an object; it is ignored.
	Undecodable func(resource, key string, err error)
	// Retry is called when a request to etcd failed; the source tries again.
	Retry func(resource string, err error)
}

// Source follows a set of feeds.
type Source struct {
	client   *clientv3.Client
	prefix   string
	feeds    []Feed
	observer Observer
	pending  atomic.Int64 // feeds that have not listed yet
}

const (
	pageSize   = 500
	retryFirst = 50 * time.Millisecond
	retryLast  = 2 * time.Second
)

// New returns a source over an etcd client. prefix is the root of the keys,
// "/registry" unless the API server was configured with another.
func New(client *clientv3.Client, prefix string, feeds []Feed, observer Observer) *Source {
	s := &Source{client: client, prefix: strings.TrimSuffix(prefix, "/"), feeds: feeds, observer: observer}
	s.pending.Store(int64(len(feeds)))
	return s
}

// Synced is true once every feed has been listed.
func (s *Source) Synced() bool { return s.pending.Load() == 0 }

// Run follows all feeds until the context ends.
func (s *Source) Run(ctx context.Context) {
	done := make(chan struct{})
	for i := range s.feeds {
		go func(f *follower) {
			f.run(ctx)
			done <- struct{}{}
		}(&follower{Source: s, feed: &s.feeds[i], known: map[string]struct{}{}})
	}
	for range s.feeds {
		<-done
	}
}

// follower is the state of one feed.
type follower struct {
	*Source
	feed *Feed
	// known holds the key of every object that was put and not deleted, so that a new list
	// shows which were deleted meanwhile.
	known  map[string]struct{}
	listed bool
}

func (f *follower) run(ctx context.Context) {
	wait := backoff.New(retryFirst, retryLast)
	for ctx.Err() == nil {
		revision, err := f.list(ctx)
		if err == nil {
			wait.Reset()
			if !f.listed {
				f.listed = true
				f.pending.Add(-1)
			}
			err = f.watch(ctx, revision+1)
		}
		if ctx.Err() != nil {
			return
		}
		if f.observer.Retry != nil {
			f.observer.Retry(f.feed.Resource.String(), err)
		}
		_ = wait.Wait(ctx) // the loop ends with ctx
	}
}

// list puts every object at one revision and deletes known objects that are not listed.
func (f *follower) list(ctx context.Context) (int64, error) {
	prefix := f.keyPrefix()
	end := clientv3.GetPrefixRangeEnd(prefix)
	seen := map[string]struct{}{}
	var revision int64
	for key := prefix; ; {
		opts := []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(pageSize)}
		if revision != 0 {
			opts = append(opts, clientv3.WithRev(revision))
		}
		page, cancel := context.WithTimeout(ctx, 10*time.Second)
		resp, err := f.client.Get(page, key, opts...)
		cancel()
		if err != nil {
			return 0, fmt.Errorf("list %s: %w", prefix, err)
		}
		revision = max(revision, resp.Header.Revision)
		for _, kv := range resp.Kvs {
			seen[string(kv.Key)] = struct{}{}
			f.put(string(kv.Key), kv.Value, kv.ModRevision)
		}
		if !resp.More || len(resp.Kvs) == 0 {
			break
		}
		key = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
	for key := range f.known {
		if _, ok := seen[key]; !ok {
			f.delete(key)
		}
	}
	return revision, nil
}

// watch applies events until the watch ends; the caller lists again.
func (f *follower) watch(ctx context.Context, from int64) error {
	// Without a leader a member has no new events: the watch ends, so that another member is tried.
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	for resp := range f.client.Watch(ctx, f.keyPrefix(), clientv3.WithPrefix(), clientv3.WithRev(from)) {
		if err := resp.Err(); err != nil {
			return fmt.Errorf("watch %s: %w", f.keyPrefix(), err)
		}
		for _, ev := range resp.Events {
			if ev.Type == clientv3.EventTypeDelete {
				f.delete(string(ev.Kv.Key))
			} else {
				f.put(string(ev.Kv.Key), ev.Kv.Value, ev.Kv.ModRevision)
			}
		}
	}
	return errors.New("watch " + f.keyPrefix() + ": ended by etcd")
}

func (f *follower) put(key string, value []byte, revision int64) {
	if f.observer.Event != nil {
		f.observer.Event(f.feed.Resource.String())
	}
	obj, err := codec.Decode(value, revision)
	if err != nil {
		if f.observer.Undecodable != nil {
			f.observer.Undecodable(f.feed.Resource.String(), key, err)
		}
		return
	}
	f.known[key] = struct{}{}
	f.feed.Put(obj)
}

func (f *follower) delete(key string) {
	if f.observer.Event != nil {
		f.observer.Event(f.feed.Resource.String())
	}
	delete(f.known, key)
	rest := strings.TrimPrefix(key, f.keyPrefix())
	namespace, name, namespaced := strings.Cut(rest, "/")
	if !namespaced {
		namespace, name = "", rest
	}
	f.feed.Delete(namespace, name)
}

// keyPrefix is the feed's folder below the configured root.
func (f *follower) keyPrefix() string {
	const root = "/registry"
	return f.prefix + strings.TrimPrefix(storage.Prefix(f.feed.Path), root)
}
