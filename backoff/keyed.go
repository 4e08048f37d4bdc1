package backoff

import (
	"sync"
	"time"
)

// Keyed is for many keys, each with a back-off of its own that starts at its first failure. Any number of goroutines may use it.
type Keyed[K comparable] struct {
	first, last time.Duration

	mu      sync.Mutex
	failing map[K]*failures
}

type failures struct {
	Backoff
	inARow int
}

// NewKeyed waits for each key as New does.
func NewKeyed[K comparable](first, last time.Duration) *Keyed[K] {
	return &Keyed[K]{first: first, last: last, failing: map[K]*failures{}}
}

// Next records a failure of the key, and returns how long to wait.
func (k *Keyed[K]) Next(key K) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	f := k.failing[key]
	if f == nil {
		f = &failures{Backoff: *New(k.first, k.last)}
		k.failing[key] = f
	}
	f.inARow++
	return f.Next()
}

// Reset records that the key succeeded, or is not tried any more.
func (k *Keyed[K]) Reset(key K) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.failing, key)
}

// Failures returns how often the key has failed since it last succeeded.
func (k *Keyed[K]) Failures(key K) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	if f := k.failing[key]; f != nil {
		return f.inARow
	}
	return 0
}
