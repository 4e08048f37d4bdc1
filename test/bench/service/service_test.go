package service

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/service"
)

const (
	backendsEach = 4
	batch        = 200 // connects between two looks at the clock
	port         = 8080
)

var sizes = []int{1, 10_000, 50_000}

// address returns the i-th address from base on.
func address(base [4]byte, i int) netip.Addr {
	var out [4]byte
	binary.BigEndian.PutUint32(out[:], binary.BigEndian.Uint32(base[:])+uint32(i))
	return netip.AddrFrom4(out)
}

func frontendOf(i int) netip.Addr { return address([4]byte{10, 96, 0, 1}, i) }

// serviceOf has backends of its own. Those of service 0 are on loopback's
// 127.1.0.0/16 like all others, and listen when a benchmark needs it.
func serviceOf(i int, protocol service.Protocol) service.Service {
	s := service.Service{
		Name:      fmt.Sprintf("bench/s%05d-%d:p", i, protocol),
		Frontends: []service.Frontend{{Addr: frontendOf(i), Port: port, Protocol: protocol}},
	}
	for k := range backendsEach {
		s.Backends = append(s.Backends, service.Backend{
			Addr: address([4]byte{127, 1, 0, 1}, i*backendsEach+k), Port: port, Node: fmt.Sprintf("node%d", k),
		})
	}
	return s
}

func plane(b *testing.B, a arena, services int, protocol service.Protocol) *service.Plane {
	b.Helper()
	p, err := service.Open(service.Options{
		PinDir: a.pins, CgroupPath: a.hooked,
		Limits: service.Limits{Backends: 1 << 18},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		p.Close()
		if err := service.Remove(a.pins); err != nil {
			b.Error(err)
		}
	})
	for i := range services {
		p.SetService(serviceOf(i, protocol))
	}
	flush(b, p)
	return p
}

func flush(b *testing.B, p *service.Plane) {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if err := p.Flush(ctx); err != nil {
		b.Fatal(err)
	}
}

func sockaddr(addr netip.Addr) unix.RawSockaddrInet4 {
	sa := unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: addr.As4()}
	var bytes [2]byte
	binary.BigEndian.PutUint16(bytes[:], port)
	sa.Port = binary.NativeEndian.Uint16(bytes[:])
	return sa
}

func connect(fd int, to *unix.RawSockaddrInet4) unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(to)), unix.SizeofSockaddrInet4)
	return errno
}

var nowhere = unix.RawSockaddrInet4{Family: unix.AF_UNSPEC}

// lane is one side of a comparison.
type lane struct {
	name   string
	fd     int
	to     []unix.RawSockaddrInet4
	next   int
	rounds []float64 // ns per connect
}

func (l *lane) run(b *testing.B) {
	start := threadTime()
	for range batch {
		if errno := connect(l.fd, &l.to[l.next]); errno != 0 {
			b.Fatalf("%s: connect: %v", l.name, errno)
		}
		// Back to the state of a new socket; this runs no hook.
		if errno := connect(l.fd, &nowhere); errno != 0 {
			b.Fatalf("%s: disconnect: %v", l.name, errno)
		}
		if l.next++; l.next == len(l.to) {
			l.next = 0
		}
	}
	l.rounds = append(l.rounds, float64(threadTime()-start)/batch)
}

// threadTime is this thread's CPU time in ns: connect() of a UDP socket never
// waits, and other work on the machine is not counted.
func threadTime() int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now); err != nil {
		panic(err)
	}
	return now.Nano()
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// BenchmarkConnect times connect() of a UDP socket and its disconnection, which
// is the hook and little else: no packet is sent. "spread" goes to all services in random order, so
// that their records are not in the cache.
func BenchmarkConnect(b *testing.B) {
	for _, services := range sizes {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) {
			a := newArena(b)
			plane(b, a, services, service.UDP)
			socket := func(cgroup string) int {
				enter(b, cgroup)
				fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() { unix.Close(fd) })
				return fd
			}
			var frontends, backends []unix.RawSockaddrInet4
			for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(services) {
				frontends = append(frontends, sockaddr(frontendOf(i)))
				backends = append(backends, sockaddr(address([4]byte{127, 1, 0, 1}, i*backendsEach)))
			}
			outside := []unix.RawSockaddrInet4{sockaddr(netip.MustParseAddr("127.200.0.1"))}
			lanes := []*lane{
				{name: "plain", fd: socket(a.plain), to: backends[:1]},
				{name: "service", fd: socket(a.hooked), to: frontends[:1]},
				{name: "plain-spread", fd: socket(a.plain), to: backends},
				{name: "service-spread", fd: socket(a.hooked), to: frontends},
				{name: "hooked-other", fd: socket(a.hooked), to: outside},
				{name: "hooked-backend", fd: socket(a.hooked), to: backends[:1]},
			}
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			for b.Loop() {
				for _, l := range lanes {
					l.run(b)
				}
			}
			medians := map[string]float64{}
			for _, l := range lanes {
				medians[l.name] = median(l.rounds)
				b.ReportMetric(medians[l.name], l.name+"-ns")
			}
			b.ReportMetric(medians["service"]-medians["plain"], "added-ns")
			b.ReportMetric(medians["service-spread"]-medians["plain-spread"], "added-spread-ns")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkEndpointChange times one changed backend among 10,000 services, from
// SetService until the maps have it.
func BenchmarkEndpointChange(b *testing.B) {
	p := plane(b, newArena(b), 10_000, service.TCP)
	var times []float64
	i := 0
	for b.Loop() {
		s := serviceOf(i*7919%10_000, service.TCP)
		s.Backends = s.Backends[i%2:]
		start := time.Now()
		p.SetService(s)
		flush(b, p)
		times = append(times, float64(time.Since(start).Nanoseconds()))
		i++
	}
	slices.Sort(times)
	b.ReportMetric(times[len(times)/2]/1000, "p50-us")
	b.ReportMetric(times[len(times)*99/100]/1000, "p99-us")
	b.ReportMetric(0, "ns/op")
}
