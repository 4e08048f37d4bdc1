package path

import (
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/podpath/fabrictest"
	"github.com/skep-io/skep/dataplane/sandbox"
)

const (
	rounds   = 16 // even: each side begins half of them
	bulk     = 256 << 20
	requests = 4000
	// Bulk is read in large pieces. With small reads the figure is the cost of the reader's wake-ups, not of the path.
	readSize = 1 << 20
)

func TestMain(m *testing.M) { os.Exit(sandbox.Main(m, nil)) }

// pair is a client and a server between whose nodes the path is open or not.
type pair struct {
	client *fabrictest.Pod
	target netip.AddrPort
}

func newPair(b *testing.B, nodes int, open bool) pair {
	b.Helper()
	f := fabrictest.New(b, nodes)
	if open {
		f.OpenPaths()
	}
	client, server := f.Hosts[0].NewPod("client"), f.Hosts[nodes-1].NewPod("server")
	p := pair{client: client, target: netip.AddrPortFrom(server.Addr4(), 8080)}
	var listener net.Listener
	server.Do(func() (err error) {
		listener, err = net.Listen("tcp", p.target.String())
		return err
	})
	b.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	return p
}

// serve reads a byte that names the kind of work, then does it: 'e' echoes, 'd' reads all and confirms.
func serve(conn net.Conn) {
	defer conn.Close()
	kind := make([]byte, 1)
	if _, err := io.ReadFull(conn, kind); err != nil {
		return
	}
	if kind[0] == 'e' {
		io.Copy(conn, conn)
		return
	}
	block := make([]byte, readSize)
	for left := bulk; left > 0; {
		n, err := conn.Read(block)
		if err != nil {
			return
		}
		left -= n
	}
	conn.Write([]byte("d"))
}

func (p pair) dial(b *testing.B, kind string) net.Conn {
	b.Helper()
	var conn net.Conn
	p.client.Do(func() (err error) {
		conn, err = net.DialTimeout("tcp", p.target.String(), fabrictest.Deadline)
		return err
	})
	conn.SetDeadline(time.Now().Add(fabrictest.Deadline))
	if _, err := conn.Write([]byte(kind)); err != nil {
		b.Fatal(err)
	}
	return conn
}

// throughput is in gigabits per second.
func (p pair) throughput(b *testing.B) float64 {
	b.Helper()
	conn := p.dial(b, "d")
	defer conn.Close()
	block := make([]byte, 1<<20)
	start := time.Now()
	for range bulk / len(block) {
		if _, err := conn.Write(block); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := io.ReadFull(conn, block[:1]); err != nil {
		b.Fatal(err)
	}
	return bulk * 8 / time.Since(start).Seconds() / 1e9
}

// latency is the mean of some requests of one byte, in microseconds.
func (p pair) latency(b *testing.B) float64 {
	b.Helper()
	conn := p.dial(b, "e")
	defer conn.Close()
	one := make([]byte, 1)
	start := time.Now()
	for range requests {
		if _, err := conn.Write(one); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(conn, one); err != nil {
			b.Fatal(err)
		}
	}
	return float64(time.Since(start).Microseconds()) / requests
}

func BenchmarkOneNode(b *testing.B)  { compare(b, 1) }
func BenchmarkTwoNodes(b *testing.B) { compare(b, 2) }

func compare(b *testing.B, nodes int) {
	path, stack := newPair(b, nodes, true), newPair(b, nodes, false)
	for range b.N {
		var throughput, cost, latency [2][]float64
		sides := []pair{path, stack}
		for round := range rounds {
			for turn := range sides {
				i := (round + turn) % len(sides)
				before := processorTime(b)
				throughput[i] = append(throughput[i], sides[i].throughput(b))
				cost[i] = append(cost[i], (processorTime(b)-before).Seconds()*1000*(1<<30)/bulk)
				latency[i] = append(latency[i], sides[i].latency(b))
			}
		}
		report(b, throughput, "Gbit/s")
		report(b, cost, "ms-CPU/GiB")
		report(b, latency, "µs/request")
	}
	b.ReportMetric(0, "ns/op")
}

// processorTime is the CPU time of this process, which is client and server, including the kernel's work for it. With other
// load on the machine it is a better measure than elapsed time.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func report(b *testing.B, sides [2][]float64, unit string) {
	path, stack := median(sides[0]), median(sides[1])
	b.ReportMetric(path, "path-"+unit)
	b.ReportMetric(stack, "stack-"+unit)
	b.ReportMetric(path/stack, "ratio-"+unit)
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}
