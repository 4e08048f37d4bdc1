package service

import (
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// measures are what the sides are compared by: each returns a rate.
var measures = []struct {
	unit string
	take func(*testing.B, *side) float64
}{
	{"conn/s", connectionsPerSecond},
	{"rr/s", requestResponse},
	{"MB/s", throughput},
}

// rounds is how often each side is measured, in turn with the others.
const rounds = 20 // a multiple of the sides

// BenchmarkCompare takes whole TCP connections, one after another; UDP requests and responses on one socket; and TCP
// throughput through a service and directly, beside the same service as kube-proxy's rules. It reports each side's median and
// the median of its ratios to the direct one, round by round.
func BenchmarkCompare(b *testing.B) {
	for _, services := range sizes {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) {
			// Never unlocked: the thread ends with the benchmark, in whatever namespace.
			runtime.LockOSThread()
			all := sides(b, services)
			rates := map[string][]float64{}
			for b.Loop() {
				for _, m := range measures {
					for round := range rounds {
						compareOnce(b, all, round, m.unit, m.take, rates)
					}
				}
			}
			for _, m := range measures {
				direct := rates["direct-"+m.unit]
				for _, s := range all {
					own := rates[s.name+"-"+m.unit]
					b.ReportMetric(median(slices.Clone(own)), s.name+"-"+m.unit)
					if s == all[0] {
						continue
					}
					ratios := make([]float64, len(own))
					for i := range own {
						ratios[i] = own[i] / direct[i]
					}
					b.ReportMetric(median(ratios), s.name+"/direct-"+m.unit)
				}
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// compareOnce measures every side once. The first side changes with the round, since work that one side leaves slows the next.
func compareOnce(b *testing.B, all []*side, round int, unit string, take func(*testing.B, *side) float64, rates map[string][]float64) {
	for i := range all {
		s := all[(i+round)%len(all)]
		s.enter(b)
		take(b, s) // a warm-up, until the servers are idle
		rates[s.name+"-"+unit] = append(rates[s.name+"-"+unit], take(b, s))
	}
}

func connectionsPerSecond(b *testing.B, s *side) float64 {
	return perSecond(func(i int) {
		fd := s.dial(b, unix.SOCK_STREAM, i)
		unix.Close(fd)
	})
}

// perSecond calls f repeatedly and returns the rate per second. A slow f is called less often.
func perSecond(f func(i int)) float64 {
	start, done := time.Now(), 0
	for done < 20 || done < batch && time.Since(start) < 100*time.Millisecond {
		f(done)
		done++
	}
	return float64(done) / time.Since(start).Seconds()
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

func requestResponse(b *testing.B, s *side) float64 {
	fd := s.dial(b, unix.SOCK_DGRAM, 0)
	defer unix.Close(fd)
	// A lost datagram is a failure, not an endless wait.
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}); err != nil {
		b.Fatal(err)
	}
	message := []byte{1}
	return perSecond(func(int) {
		if _, err := unix.Write(fd, message); err != nil {
			b.Fatalf("%s: send: %v", s.name, err)
		}
		_, err := unix.Read(fd, message)
		for err == unix.EINTR { // the runtime's own signals end a read that has a limit
			_, err = unix.Read(fd, message)
		}
		if err != nil {
			b.Fatalf("%s: no answer: %v", s.name, err)
		}
	})
}

// throughput writes to one connection as fast as it accepts, until the other end has read all.
func throughput(b *testing.B, s *side) float64 {
	const total = 32 << 20
	fd := s.dial(b, unix.SOCK_STREAM, 0)
	defer unix.Close(fd)
	buffer := make([]byte, 256<<10)
	start := time.Now()
	for sent := 0; sent < total; {
		n, err := unix.Write(fd, buffer[:min(len(buffer), total-sent)])
		if err != nil {
			b.Fatalf("%s: write: %v", s.name, err)
		}
		sent += n
	}
	if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
		b.Fatalf("%s: shutdown: %v", s.name, err)
	}
	if n, err := unix.Read(fd, buffer); n != 0 || err != nil {
		b.Fatalf("%s: the other end did not end the connection: %d bytes, %v", s.name, n, err)
	}
	return total / 1e6 / time.Since(start).Seconds()
}
