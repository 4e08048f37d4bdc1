package service

import (
	"fmt"
	"os"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// memory is an array map whose elements this process shares with programs: a
// store takes effect at once and costs no system call. What programs may be
// reading is changed by atomic stores only.
type memory[V any] struct {
	values []V
	raw    []byte
}

func shareMemory[V any](m *ebpf.Map, write bool) (memory[V], error) {
	var zero V
	size := int(unsafe.Sizeof(zero))
	if size%8 != 0 || uint32(size) != m.ValueSize() {
		return memory[V]{}, fmt.Errorf("map %s: elements of %d bytes, not %d", m, m.ValueSize(), size)
	}
	page := os.Getpagesize()
	length := (size*int(m.MaxEntries()) + page - 1) / page * page
	protection := unix.PROT_READ
	if write {
		protection |= unix.PROT_WRITE
	}
	raw, err := unix.Mmap(m.FD(), 0, length, protection, unix.MAP_SHARED)
	if err != nil {
		return memory[V]{}, fmt.Errorf("map %s: share its memory: %w", m, err)
	}
	values := unsafe.Slice((*V)(unsafe.Pointer(unsafe.SliceData(raw))), m.MaxEntries())
	return memory[V]{values: values, raw: raw}, nil
}

// at returns an element, or nil if there is none of that index.
func (m memory[V]) at(index uint32) *V {
	if int(index) >= len(m.values) {
		return nil
	}
	return &m.values[index]
}

func (m memory[V]) close() error {
	if m.raw == nil {
		return nil
	}
	return unix.Munmap(m.raw)
}
