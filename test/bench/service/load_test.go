package service

import (
	"fmt"
	"testing"
	"time"

	"github.com/skep-io/skep/dataplane/service"
)

// BenchmarkFullLoad fills the maps with 50,000 services of 5 endpoints each, with default limits, and times that, one change
// among them, and their adoption by a new process.
func BenchmarkFullLoad(b *testing.B) {
	const services, each = 50_000, 5
	a := newArena(b)
	options := service.Options{PinDir: a.pins, CgroupPath: a.hooked, Node: "node1"}
	full := func(i int) service.Service {
		s := service.Service{
			Name:      fmt.Sprintf("bench/s%05d:p", i),
			Frontends: []service.Frontend{{Addr: frontendOf(i), Port: port, Protocol: service.TCP}},
		}
		for k := range each {
			s.Backends = append(s.Backends, service.Backend{
				Addr: address([4]byte{10, 128, 0, 1}, i*each+k), Port: port, Node: fmt.Sprintf("node%d", (i*each+k)%1000)})
		}
		return s
	}
	var load, change, adopt, memory []float64
	for b.Loop() {
		p, err := service.Open(options)
		if err != nil {
			b.Fatal(err)
		}
		start := time.Now()
		for i := range services {
			p.SetService(full(i))
		}
		flush(b, p)
		load = append(load, time.Since(start).Seconds())
		for i := range 100 {
			changed := full(i * 487 % services)
			changed.Backends = changed.Backends[1:]
			start = time.Now()
			p.SetService(changed)
			flush(b, p)
			change = append(change, time.Since(start).Seconds()*1000)
		}
		if problems := p.Problems(); len(problems) > 0 {
			b.Fatalf("%d problems, the first: %v", len(problems), problems[0])
		}
		memory = append(memory, float64(mapBytes(b, p))/(1<<20))
		if err := p.Close(); err != nil {
			b.Fatal(err)
		}
		start = time.Now()
		next, err := service.Open(options)
		if err != nil {
			b.Fatal(err)
		}
		adopt = append(adopt, time.Since(start).Seconds())
		if d, err := next.Dump(); err != nil || len(d.Services) != services {
			b.Fatalf("%d services were adopted, %v", len(d.Services), err)
		}
		if err := next.Close(); err != nil {
			b.Fatal(err)
		}
		if err := service.Remove(a.pins); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(median(load), "load-s")
	b.ReportMetric(median(change), "change-ms")
	b.ReportMetric(median(adopt), "adopt-s")
	b.ReportMetric(median(memory), "maps-MiB")
	b.ReportMetric(0, "ns/op")
}

// mapBytes is what the kernel accounts for the maps.
func mapBytes(b *testing.B, p *service.Plane) (sum uint64) {
	b.Helper()
	for _, m := range p.Maps() {
		info, err := m.Info()
		if err != nil {
			b.Fatal(err)
		}
		bytes, _ := info.Memlock() // an empty trie has none
		sum += bytes
	}
	return sum
}
