package census_test

import (
	"fmt"
	"testing"

	"github.com/skep-io/skep/dataplane/census"
	"github.com/skep-io/skep/dataplane/sandbox"
	"github.com/skep-io/skep/dataplane/service"
	"github.com/skep-io/skep/test/hurts/lab"
)

// What one count of sockets costs, by how many are connected through a service.
func BenchmarkCountSockets(b *testing.B) {
	plane, host := lab.Open(b, lab.Pins(b)), lab.Host(b)
	var backends []string
	for i := range 100 {
		backends = append(backends, fmt.Sprintf("127.0.2.%d:53", i+1))
	}
	plane.SetService(lab.Service("t/dns:udp", service.UDP, "10.96.0.1:53", backends...))
	lab.Flush(b, plane)
	c, err := census.New(census.Options{Plane: plane, CgroupPath: sandbox.Cgroup()})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	open := 0
	for _, size := range []int{0, 1_000, 10_000} {
		for ; open < size; open++ {
			host.Dial(b, "udp4", "10.96.0.1:53")
		}
		b.Run(fmt.Sprintf("sockets=%d", size), func(b *testing.B) {
			for b.Loop() {
				counted, err := c.CountNow()
				if err != nil {
					b.Fatal(err)
				}
				n := 0
				for _, one := range counted {
					n += int(one.Sockets)
				}
				if n != size {
					b.Fatalf("%d sockets counted, %d are open", n, size)
				}
			}
		})
	}
}
