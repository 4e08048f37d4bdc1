package service

import (
	"errors"
	"fmt"
	"sync"

	"github.com/skep-io/skep/bpf"
)

var errInjected = errors.New("injected: map is full")

// recorder is a writer that counts what reaches the maps and fails on demand.
type recorder struct {
	writer
	mu    sync.Mutex
	calls []string
	fail  func(call string) bool // nil: never
}

func (r *recorder) do(call string, write func() error) error {
	r.mu.Lock()
	failed := r.fail != nil && r.fail(call)
	if !failed {
		r.calls = append(r.calls, call)
	}
	r.mu.Unlock()
	if failed {
		return fmt.Errorf("%s: %w", call, errInjected)
	}
	return write()
}

// take returns the writes since the last call.
func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	calls := r.calls
	r.calls = nil
	return calls
}

func (r *recorder) failing(fail func(call string) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = fail
}

func (r *recorder) PutFrontend(key bpf.SocketEndpoint, e entry) error {
	return r.do("PutFrontend", func() error { return r.writer.PutFrontend(key, e) })
}
func (r *recorder) DeleteFrontend(key bpf.SocketEndpoint) (cell uint32, was bool, err error) {
	err = r.do("DeleteFrontend", func() (err error) {
		cell, was, err = r.writer.DeleteFrontend(key)
		return err
	})
	return cell, was, err
}
func (r *recorder) ResetService(id uint32, record bpf.SocketService) error {
	return r.do("ResetService", func() error { return r.writer.ResetService(id, record) })
}
func (r *recorder) PutPolicy(service uint32, flags bpf.SocketServiceFlags, affinitySeconds uint32) error {
	return r.do("PutPolicy", func() error { return r.writer.PutPolicy(service, flags, affinitySeconds) })
}
func (r *recorder) PutRun(service uint32, local bool, word uint64) error {
	return r.do("PutRun", func() error { return r.writer.PutRun(service, local, word) })
}
func (r *recorder) PutSlots(base uint32, backends []uint32) error {
	return r.do("PutSlots", func() error { return r.writer.PutSlots(base, backends) })
}
func (r *recorder) PutBackend(id uint32, record bpf.SocketBackend) error {
	return r.do("PutBackend", func() error { return r.writer.PutBackend(id, record) })
}
func (r *recorder) PutBackendFlags(id uint32, flags bpf.SocketBackendFlags) error {
	return r.do("PutBackendFlags", func() error { return r.writer.PutBackendFlags(id, flags) })
}
func (r *recorder) PutReverse(key bpf.SocketEndpoint, backend uint32) error {
	return r.do("PutReverse", func() error { return r.writer.PutReverse(key, backend) })
}
func (r *recorder) DeleteReverse(key bpf.SocketEndpoint) error {
	return r.do("DeleteReverse", func() error { return r.writer.DeleteReverse(key) })
}
func (r *recorder) PutPrimary(service uint32, key bpf.SocketEndpoint) error {
	return r.do("PutPrimary", func() error { return r.writer.PutPrimary(service, key) })
}
func (r *recorder) PutSource(key bpf.SocketSourceKey) error {
	return r.do("PutSource", func() error { return r.writer.PutSource(key) })
}
func (r *recorder) DeleteSource(key bpf.SocketSourceKey) error {
	return r.do("DeleteSource", func() error { return r.writer.DeleteSource(key) })
}
func (r *recorder) PutNode(id uint32, record bpf.SocketNode) error {
	return r.do("PutNode", func() error { return r.writer.PutNode(id, record) })
}
func (r *recorder) PutAddress(key bpf.SocketAddress, flags bpf.SocketAddressFlags) error {
	return r.do("PutAddress", func() error { return r.writer.PutAddress(key, flags) })
}
func (r *recorder) DeleteAddress(key bpf.SocketAddress) error {
	return r.do("DeleteAddress", func() error { return r.writer.DeleteAddress(key) })
}
func (r *recorder) PutName(key bpf.SocketNameKey, name string) error {
	return r.do("PutName", func() error { return r.writer.PutName(key, name) })
}
func (r *recorder) DeleteName(key bpf.SocketNameKey) error {
	return r.do("DeleteName", func() error { return r.writer.DeleteName(key) })
}
