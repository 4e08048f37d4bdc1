package service

import (
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/service"
)

// compare runs one measure on every side in turn and reports each side's median
// and its ratio to the direct one, round by round.
func compare(b *testing.B, unit string, protocol service.Protocol, measure func(*testing.B, *side) float64) {
	for _, services := range sizes {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) {
			// Never unlocked: the thread ends with the benchmark, in whatever namespace.
			runtime.LockOSThread()
			all := sides(b, services, protocol)
			rates, ratios := map[string][]float64{}, map[string][]float64{}
			for b.Loop() {
				for _, s := range all {
					s.enter(b)
					rate := measure(b, s)
					rates[s.name] = append(rates[s.name], rate)
					ratios[s.name] = append(ratios[s.name], rate/rates[all[0].name][len(rates[s.name])-1])
				}
			}
			for _, s := range all {
				b.ReportMetric(median(slices.Clone(rates[s.name])), s.name+"-"+unit)
				if s != all[0] {
					b.ReportMetric(median(ratios[s.name]), s.name+"/direct")
				}
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkConnectionsPerSecond makes whole TCP connections, one after another.
func BenchmarkConnectionsPerSecond(b *testing.B) {
	compare(b, "conn/s", service.TCP, connectionsPerSecond)
}

func connectionsPerSecond(b *testing.B, s *side) float64 {
	start := time.Now()
	for i := range batch {
		fd := s.dial(b, unix.SOCK_STREAM, i)
		unix.Close(fd)
	}
	return batch / time.Since(start).Seconds()
}

// dial connects a socket to what the side asks for.
func (s *side) dial(b *testing.B, kind, turn int) int {
	b.Helper()
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	if kind == unix.SOCK_STREAM {
		// Reset on close: no port is left waiting.
		if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
			b.Fatal(err)
		}
	}
	to := sockaddr(s.to[turn%len(s.to)])
	if errno := connect(fd, &to); errno != 0 {
		b.Fatalf("%s: connect to %s: %v", s.name, s.to[turn%len(s.to)], errno)
	}
	return fd
}

// BenchmarkRequestResponse sends one datagram and waits for the answer, again
// and again on one socket.
func BenchmarkRequestResponse(b *testing.B) { compare(b, "rr/s", service.UDP, requestResponse) }

func requestResponse(b *testing.B, s *side) float64 {
	fd := s.dial(b, unix.SOCK_DGRAM, 0)
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
		b.Fatal(err)
	}
	message := []byte{1}
	start := time.Now()
	for range batch {
		if _, err := unix.Write(fd, message); err != nil {
			b.Fatalf("%s: send: %v", s.name, err)
		}
		if _, err := unix.Read(fd, message); err != nil {
			b.Fatalf("%s: no answer: %v", s.name, err)
		}
	}
	return batch / time.Since(start).Seconds()
}

// BenchmarkThroughput writes to one TCP connection as fast as it takes.
func BenchmarkThroughput(b *testing.B) { compare(b, "MB/s", service.TCP, throughput) }

func throughput(b *testing.B, s *side) float64 {
	const total = 64 << 20
	fd := s.dial(b, unix.SOCK_STREAM, 0)
	defer unix.Close(fd)
	buffer := make([]byte, 256<<10)
	start := time.Now()
	for sent := 0; sent < total; {
		n, err := unix.Write(fd, buffer)
		if err != nil {
			b.Fatalf("%s: write: %v", s.name, err)
		}
		sent += n
	}
	return total / 1e6 / time.Since(start).Seconds()
}
