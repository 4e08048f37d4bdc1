package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// The attacked server: its deadlines are short, so that the tests do not wait for them.
const attackTimeout = 3 * time.Second

var attacked = sync.OnceValues(func() (*controlPlane, error) {
	return start(attackedDir, Config{BodyTimeout: attackTimeout, WriteTimeout: attackTimeout, MaxConnections: 2000})
})

// attackedDir is made and removed by TestMain.
var attackedDir string

func attackedServer(t *testing.T) *controlPlane {
	t.Helper()
	p, err := attacked()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// leaseAge is the maximum age of a node's lease while the server is attacked. On a quiet machine it is a fraction of a second; a node that
// is silent for 40 seconds loses its pods.
const leaseAge = 20 * time.Second

// underAttack runs attack while a node's agent renews its lease and writes its Node's status. Every renewal must succeed, in time, and the
// process, in which both sides run, must not grow by more than grow bytes of heap.
func underAttack(t *testing.T, p *controlPlane, grow int64, attack func(ctx context.Context)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 5*time.Minute)
	defer cancel()
	name := fmt.Sprintf("node-%d", nodes.Add(1))
	config, _ := p.node(t, name)
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	leases := client.CoordinationV1().Leases("kube-node-lease")
	lease, err := leases.Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	before := liveHeap()
	var peak atomic.Int64
	done := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		for !ended(done) {
			peak.Store(max(peak.Load(), liveHeap()))
			time.Sleep(5 * time.Millisecond)
		}
	})
	group.Go(func() {
		renewals, oldest := 0, time.Duration(0)
		for finish := false; !finish; renewals++ {
			finish = ended(done) // one renewal after the attack in any case
			began := time.Now()
			now := metav1.NowMicro()
			lease.Spec.RenewTime = &now
			renewed, err := leases.Update(ctx, lease, metav1.UpdateOptions{})
			if err != nil {
				t.Errorf("renewal %d of the lease: %v", renewals, err)
				return
			}
			lease, oldest = renewed, max(oldest, time.Since(began))
			time.Sleep(20 * time.Millisecond)
		}
		t.Logf("%d renewals, the slowest took %s", renewals, oldest)
		if oldest > leaseAge {
			t.Errorf("a renewal of the lease took %s", oldest)
		}
	})
	func() {
		defer group.Wait()
		defer close(done)
		attack(ctx)
	}()
	grown := peak.Load() - before
	t.Logf("the heap grew by %d MiB", grown>>20)
	if grown > grow {
		t.Errorf("the heap grew by %d MiB, more than %d", grown>>20, grow>>20)
	}
}

var nodes atomic.Int64

func ended(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// liveHeap is the size of the objects on the heap, including garbage that has not been collected yet.
func liveHeap() int64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64())
}

// as is the administrator's client, treated as another administrator.
func (p *controlPlane) as(t *testing.T, name string) *kubernetes.Clientset {
	t.Helper()
	config := rest.CopyConfig(p.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: name, Groups: []string{"system:masters"}}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// roundTrippers are transports with connections of their own, so that many requests do not wait for streams of one.
func roundTripper(t *testing.T, config *rest.Config) http.RoundTripper {
	t.Helper()
	config = rest.CopyConfig(config)
	config.Dial = nil
	tlsConfig, err := rest.TLSConfigFor(config)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}
