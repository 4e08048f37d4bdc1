package skep

import (
	"context"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientscheme "k8s.io/client-go/kubernetes/scheme"

	"github.com/skep-io/skep/controlplane/storage"
	"github.com/skep-io/skep/coredns-plugin/index"
)

func newIndex() *index.Index { return index.New() }

// testEtcd is a real etcd of one member on unix sockets.
type testEtcd struct {
	dir      string
	endpoint string
	server   *embed.Etcd
	client   *clientv3.Client
}

func startEtcd(t *testing.T) *testEtcd {
	t.Helper()
	e := &testEtcd{dir: t.TempDir()}
	e.run(t)
	t.Cleanup(func() { e.stop() })
	return e
}

func (e *testEtcd) run(t *testing.T) {
	t.Helper()
	cfg := embed.NewConfig()
	cfg.Dir = filepath.Join(e.dir, "data")
	cfg.LogLevel = "error"
	client := url.URL{Scheme: "unix", Path: filepath.Join(e.dir, "c")}
	peer := url.URL{Scheme: "unix", Path: filepath.Join(e.dir, "p")}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-server.Server.ReadyNotify():
	case <-time.After(30 * time.Second):
		server.Close()
		t.Fatal("etcd is not ready after 30 s")
	}
	e.server, e.endpoint = server, client.String()
	e.client, err = clientv3.New(clientv3.Config{Endpoints: []string{e.endpoint}})
	if err != nil {
		t.Fatal(err)
	}
}

func (e *testEtcd) stop() {
	if e.server == nil {
		return
	}
	e.client.Close()
	e.server.Close()
	e.server = nil
}

func (e *testEtcd) put(t *testing.T, objs ...runtime.Object) {
	t.Helper()
	for _, obj := range objs {
		m, err := meta.Accessor(obj)
		if err != nil {
			t.Fatal(err)
		}
		data, err := storage.NewProtobuf(clientscheme.Scheme).Encode(obj)
		if err != nil {
			t.Fatal(err)
		}
		key := storage.Key(pathOf(t, obj), m.GetNamespace(), m.GetName())
		if _, err := e.client.Put(context.Background(), key, string(data)); err != nil {
			t.Fatal(err)
		}
	}
}

func (e *testEtcd) delete(t *testing.T, key string) {
	t.Helper()
	if _, err := e.client.Delete(context.Background(), key); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(20 * time.Second); !ok(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func service(namespace, name, ip string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       corev1.ServiceSpec{ClusterIP: ip},
	}
}
