package sockets_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/skep-io/skep/dataplane/service"
	"github.com/skep-io/skep/dataplane/sockets"
	"github.com/skep-io/skep/test/hurts/lab"
)

// What one sweep costs: by pods, and by unrelated sockets.
func BenchmarkSweep(b *testing.B) {
	for _, size := range []struct{ pods, sockets int }{{1, 0}, {100, 0}, {100, 10_000}} {
		plane := lab.Open(b, lab.Pins(b))
		var paths []string
		var pods []*lab.Namespace
		for range size.pods {
			pods = append(pods, lab.NewNamespace(b))
			paths = append(paths, pods[len(pods)-1].Path)
		}
		for i := range size.sockets {
			pods[i%size.pods].Dial(b, "udp4", "127.0.3.1:9")
		}
		for _, method := range methods {
			s, err := sockets.New(sockets.Options{Plane: plane, Method: method, Namespaces: func() []string { return paths }})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			for _, protocol := range []service.Protocol{service.UDP, service.TCP} {
				b.Run(fmt.Sprintf("%s/%s/pods=%d/sockets=%d", method, protocol, size.pods, size.sockets), func(b *testing.B) {
					for b.Loop() {
						if _, err := s.Sweep(context.Background(), []sockets.Target{target(protocol, "127.0.1.1:7")}); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}
