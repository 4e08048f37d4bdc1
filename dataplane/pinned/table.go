package pinned

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// ErrFull says that a table has no room.
var ErrFull = errors.New("table is full")

// Table is a map whose key and value types the compiler checks.
type Table[K comparable, V any] struct{ Map *ebpf.Map }

func (t Table[K, V]) Get(key K) (value V, ok bool, err error) {
	err = t.Map.Lookup(&key, &value)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return value, false, nil
	}
	return value, err == nil, t.explain(err)
}

func (t Table[K, V]) Put(key K, value V) error {
	return t.explain(t.Map.Update(&key, &value, ebpf.UpdateAny))
}

// Delete succeeds if the key is absent afterwards.
func (t Table[K, V]) Delete(key K) error {
	if err := t.Map.Delete(&key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return t.explain(err)
	}
	return nil
}

// All reads a hash map into memory; an entry changed meanwhile is seen either way. Of a map that programs write it may end
// with ebpf.ErrIterationAborted and the entries read until then.
func (t Table[K, V]) All() (map[K]V, error) {
	entries := map[K]V{}
	var key K
	var value V
	iterator := t.Map.Iterate()
	for iterator.Next(&key, &value) {
		entries[key] = value
	}
	return entries, t.explain(iterator.Err())
}

func (t Table[K, V]) explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("%w: all %d entries of map %s are in use: give it more with --table-sizes of skep-agent", ErrFull, t.Map.MaxEntries(), t.Map)
	}
	return fmt.Errorf("map %s: %w", t.Map, err)
}
