// Package hurts has a test for each known failure of service proxies. Each names the reports of it; README.md says what
// happened there, and why it does not here. Tests check only what users of a service see: connections, datagrams, addresses
// and time.
package hurts

import (
	"context"
	"net"
	"os"
	"sync"
	"testing"

	"github.com/skep-io/skep/dataplane/sandbox"
	"github.com/skep-io/skep/dataplane/service"
	"github.com/skep-io/skep/dataplane/sockets"
	"github.com/skep-io/skep/test/hurts/lab"
)

func TestMain(m *testing.M) { os.Exit(sandbox.Main(m, children)) }

// children are the processes that tests kill.
var children = map[string]func() error{agentProcess: runAgent}

const (
	webService  = "10.96.0.1:80"
	echoService = "10.96.0.1:7"
	one, two    = "127.0.1.1:8080", "127.0.1.2:8080"
	three       = "127.0.1.3:8080"
)

// set makes the services the desired state and waits until the maps hold them.
func set(t *testing.T, p *service.Plane, services ...service.Service) {
	t.Helper()
	for _, s := range services {
		p.SetService(s)
	}
	lab.Flush(t, p)
}

// sweeping is a running Sweeper, as in the agent.
type sweeping struct {
	*sockets.Sweeper
	cancel context.CancelFunc
	done   chan struct{}
	once   sync.Once
}

// sweep closes the sockets of the host and of pods on removed backends, until stop or the end of the test.
func sweep(t *testing.T, p *service.Plane, pods ...*lab.Namespace) *sweeping {
	t.Helper()
	s, err := sockets.New(sockets.Options{Plane: p, CgroupPath: sandbox.Cgroup(), Namespaces: func() []string {
		var paths []string
		for _, pod := range pods {
			paths = append(paths, pod.Path)
		}
		return paths
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &sweeping{Sweeper: s, cancel: cancel, done: make(chan struct{})}
	go func() { defer close(w.done); s.Run(ctx) }()
	t.Cleanup(w.stop)
	return w
}

func (w *sweeping) stop() {
	w.once.Do(func() {
		w.cancel()
		<-w.done
		w.Close()
	})
}

func wantAnswer(t *testing.T, conn net.Conn, want string) {
	t.Helper()
	if got, err := lab.Exchange(conn); err != nil || got != want {
		t.Errorf("answered by %q, %v, want %s", got, err, want)
	}
}
