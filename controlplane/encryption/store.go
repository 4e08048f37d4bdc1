package encryption

import (
	"context"
	"slices"

	"github.com/skep-io/skep/controlplane/storage"
)

// Store encrypts what is written through it and decrypts what is read.
type Store struct {
	storage.Interface
	provider *Provider
}

var _ storage.Interface = (*Store)(nil)

// NewStore makes a store over the one that holds the values.
func NewStore(inner storage.Interface, p *Provider) *Store {
	return &Store{Interface: inner, provider: p}
}

func (s *Store) open(ctx context.Context, kv *storage.KeyValue) {
	kv.Value, kv.Stale, kv.Err = s.provider.decrypt(ctx, kv.Key, kv.Value, kv.ModRevision)
}

// Get implements storage.Interface.
func (s *Store) Get(ctx context.Context, key string) (storage.KeyValue, error) {
	kv, err := s.Interface.Get(ctx, key)
	if err == nil {
		s.open(ctx, &kv)
	}
	return kv, err
}

// List implements storage.Interface.
func (s *Store) List(ctx context.Context, prefix string) ([]storage.KeyValue, int64, error) {
	kvs, revision, err := s.Interface.List(ctx, prefix)
	for i := range kvs {
		s.open(ctx, &kvs[i])
	}
	return kvs, revision, err
}

// Commit implements storage.Interface.
func (s *Store) Commit(ctx context.Context, guards []storage.Guard, ops []storage.Op) (int64, error) {
	ops = slices.Clone(ops)
	for i := range ops {
		if ops[i].Delete {
			continue
		}
		var err error
		if ops[i].Value, err = s.provider.encrypt(ctx, ops[i].Key, ops[i].Value); err != nil {
			return 0, err
		}
	}
	return s.Interface.Commit(ctx, guards, ops)
}

// Watch implements storage.Interface.
func (s *Store) Watch(ctx context.Context, prefix string, after int64) <-chan storage.WatchResponse {
	in := s.Interface.Watch(ctx, prefix, after)
	out := make(chan storage.WatchResponse, cap(in))
	go func() {
		defer close(out)
		for resp := range in {
			for i := range resp.Events {
				if ev := &resp.Events[i]; ev.Type == storage.Put {
					ev.Value, _, ev.Err = s.provider.decrypt(ctx, ev.Key, ev.Value, ev.ModRevision)
				}
			}
			select {
			case out <- resp:
			case <-ctx.Done():
				// The sender ends with ctx too.
				return
			}
		}
	}()
	return out
}
