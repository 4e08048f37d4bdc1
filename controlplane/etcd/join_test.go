package etcd

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/skep-io/skep/controlplane/pki"
)

// peerAt is how a member of a test is reached, at a free port of a loopback address; the authority is in its data folder.
func peerAt(t *testing.T, dir, address string) *Peer {
	t.Helper()
	listener, err := net.Listen("tcp", address+":0")
	if err != nil {
		t.Fatal(err)
	}
	at := listener.Addr().String()
	listener.Close()
	authority, err := pki.Open(dir, pki.Options{Peers: []netip.Addr{netip.MustParseAddr(address)}})
	if err != nil {
		t.Fatal(err)
	}
	peer := &Peer{URL: "https://" + at, Listen: at, TLS: authority.PeerTLS()}
	peer.CertFile, peer.KeyFile, peer.CAFile = authority.PeerFiles()
	return peer
}

// invite starts a first member, a, at the first address of a loopback network (three bytes), and adds one at the second, which has not
// started: its data folder, its addresses and its ID.
func invite(ctx context.Context, t *testing.T, network string) (a *Server, second string, peer *Peer, id string) {
	t.Helper()
	first, second := t.TempDir(), t.TempDir()
	a, err := Start(ctx, Config{DataDir: first, Name: "a", Peer: peerAt(t, first, network+".1")})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Welcome(ctx); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(second, "pki"), os.DirFS(filepath.Join(first, "pki"))); err != nil {
		t.Fatal(err)
	}
	peer = peerAt(t, second, network+".2")
	peer.Members = map[string]string{"a": a.peers.config.URL}
	if id, err = a.Add(ctx, peer.URL); err != nil {
		t.Fatal(err)
	}
	return a, second, peer, id
}

// A member that is killed after it has made its log, and before the others have sent it anything, joins at the next start: the log names no
// members, neither itself nor the others.
func TestJoinAfterKillBeforeTheFirstEntry(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	a, second, peer, id := invite(ctx, t, "127.77.1")
	defer a.Close()
	emptyLog(t, second, id, a)

	b, err := Start(ctx, Config{DataDir: second, Name: "b", Peer: peer})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Client.Put(ctx, "/registry/key", "value"); err != nil {
		t.Fatal(err)
	}
	if got := b.others(); len(got) != 1 || got[0] != "a" {
		t.Errorf("the others are %v", got)
	}
	// From now on its log counts.
	b.Close()
	if err := b.lock.discardUnstarted(); err != nil || !b.lock.Initialized() {
		t.Errorf("the log of a member is discarded (%v)", err)
	}
}

// emptyLog leaves the data of a member as etcd makes it before it has connected to the cluster.
func emptyLog(t *testing.T, dataDir, id string, cluster *Server) {
	t.Helper()
	member := filepath.Join(dataDir, "etcd", "member")
	if err := os.MkdirAll(filepath.Join(member, "snap"), 0o700); err != nil {
		t.Fatal(err)
	}
	number, err := strconv.ParseUint(id, 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	clusterID := uint64(cluster.etcd.Server.Cluster().ID())
	metadata, err := proto.Marshal(&etcdserverpb.Metadata{NodeID: &number, ClusterID: &clusterID})
	if err != nil {
		t.Fatal(err)
	}
	w, err := wal.Create(zap.NewNop(), filepath.Join(member, "wal"), metadata)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}
