package service

import (
	"errors"
	"net/netip"
	"sync/atomic"

	"github.com/skep-io/skep/bpf"
)

// Endpoint is a backend of a service.
type Endpoint struct {
	Service  uint32 // id, as in Dump
	Addr     netip.Addr
	Port     uint16
	Protocol Protocol
}

// CorrectFlows corrects how many flows least connections counts: each backend
// of a run gets what count, called once, returns for it. Flows that programs make
// and end meanwhile stay counted. If no service selects by least connections,
// count is not called.
func (p *Plane) CorrectFlows(count func() (func(Endpoint) uint32, error)) error {
	return p.maps.correctFlows(count)
}

func (m *kernelMaps) correctFlows(count func() (func(Endpoint) uint32, error)) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.closed {
		return errors.New("data plane is closed")
	}
	before := m.weighed()
	if len(before) == 0 {
		return nil
	}
	alive, err := count()
	if err != nil {
		return err
	}
	for id, flows := range before {
		record := m.backends.at(id)
		f := fromNetwork(record.Key)
		now := alive(Endpoint{record.Service, f.Addr, f.Port, f.Protocol})
		atomic.AddUint32(&record.Flows, now-flows)
	}
	return nil
}

// weighed are the backends among which programs choose by weight, with the flows
// that they count.
func (m *kernelMaps) weighed() map[uint32]uint32 {
	flows := map[uint32]uint32{}
	for service := range m.services.values {
		record := &m.services.values[service]
		policy := bpf.SocketServiceFlags(atomic.LoadUint32((*uint32)(&record.Flags)))
		if policy&bpf.SocketServiceFlagsSELECT_MASK != bpf.SocketServiceFlagsSELECT_LEAST_CONNECTIONS {
			continue
		}
		for _, word := range []uint64{atomic.LoadUint64(&record.Run), atomic.LoadUint64(&record.LocalRun)} {
			for _, id := range m.readRun(readRun(word)) {
				if b := m.backends.at(id); b != nil && b.Service == uint32(service) {
					flows[id] = atomic.LoadUint32(&b.Flows)
				}
			}
		}
	}
	return flows
}
