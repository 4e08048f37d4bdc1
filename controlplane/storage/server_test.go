package storage_test

import (
	"net"
	"net/url"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// serverProcess is an etcd that listens, as one that --etcd-servers names does.
type serverProcess struct {
	t        *testing.T
	dir      string
	endpoint string
	running  *embed.Etcd
}

func newServerProcess(t *testing.T) *serverProcess {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &serverProcess{t: t, dir: t.TempDir(), endpoint: "http://" + l.Addr().String()}
	l.Close() // the address is chosen by the kernel; a server that comes back needs the same one
	p.start()
	t.Cleanup(func() { p.running.Close() })
	return p
}

func (p *serverProcess) start() {
	p.t.Helper()
	endpoint, err := url.Parse(p.endpoint)
	if err != nil {
		p.t.Fatal(err)
	}
	cfg := embed.NewConfig()
	cfg.Dir = p.dir
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{*endpoint}, []url.URL{*endpoint}
	cfg.ListenPeerUrls = nil
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	if p.running, err = embed.StartEtcd(cfg); err != nil {
		p.t.Fatal(err)
	}
	select {
	case <-p.running.Server.ReadyNotify():
	case <-time.After(30 * time.Second):
		p.t.Fatal("etcd is not ready")
	}
}

func (p *serverProcess) restart() {
	p.running.Close()
	p.start()
}
