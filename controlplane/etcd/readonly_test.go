package etcd

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"slices"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// authority signs the certificates of a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert, a.key = a.sign(t, template)
	return a
}

func (a *authority) sign(t *testing.T, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent, signer := template, key
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// config is the TLS side of name: either end of a connection.
func (a *authority) config(t *testing.T, name string) *tls.Config {
	cert, key := a.sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	})
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: pool, ClientCAs: pool,
		Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}},
	}
}

// door serves s and returns the configuration with which a client with this TLS side connects.
func door(t *testing.T, s *Server, ca *authority) func(*tls.Config) *clientv3.Client {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- ServeReadOnly(ctx, l, s.Reader(), ReadOnlyConfig{
			TLS: ca.config(t, "server"), ClientName: "skep-dns",
			Prefixes: map[string]View{"/registry/services/": nil, "/registry/pods/": beforeColon},
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != context.Canceled {
			t.Errorf("serving ended with %v, want context.Canceled", err)
		}
	})
	return func(tlsConfig *tls.Config) *clientv3.Client {
		client, err := clientv3.New(clientv3.Config{
			Endpoints: []string{"https://" + l.Addr().String()}, TLS: tlsConfig, Logger: zap.NewNop(),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close() })
		return client
	}
}

// beforeColon shows the part of a value before its first colon.
func beforeColon(value []byte) []byte {
	shown, _, _ := bytes.Cut(value, []byte(":"))
	return shown
}

// Only the view of a value is seen, in whichever way it is read.
func TestDoorShowsViews(t *testing.T) {
	s := startServer(t, t.TempDir())
	defer s.Close()
	ca := newAuthority(t)
	client := door(t, s, ca)(ca.config(t, "skep-dns"))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	const key = "/registry/pods/a/a"
	watch := client.Watch(ctx, "/registry/pods/", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithCreatedNotify())
	if created := <-watch; !created.Created {
		t.Fatalf("watch began with %+v", created)
	}
	for _, value := range []string{"one:secret", "two:secret"} {
		if _, err := s.Client.Put(ctx, key, value); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Client.Delete(ctx, key); err != nil {
		t.Fatal(err)
	}
	var seen []string
	for len(seen) < 5 {
		resp := <-watch
		if err := resp.Err(); err != nil {
			t.Fatal(err)
		}
		for _, event := range resp.Events {
			if event.PrevKv != nil {
				seen = append(seen, "was "+string(event.PrevKv.Value))
			}
			seen = append(seen, string(event.Kv.Value))
		}
	}
	if want := []string{"one", "was one", "two", "was two", ""}; !slices.Equal(seen, want) {
		t.Errorf("a watch saw %q, want %q", seen, want)
	}
	if again, err := s.Client.Get(ctx, key, clientv3.WithRev(2)); err != nil || len(again.Kvs) != 1 || string(again.Kvs[0].Value) != "one:secret" {
		t.Errorf("the store itself has %v (%v)", again, err)
	}
	for what, options := range map[string][]clientv3.OpOption{
		"one": {clientv3.WithRev(2)}, "all": {clientv3.WithPrefix(), clientv3.WithRev(2)}, "sorted": {clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend), clientv3.WithPrefix(), clientv3.WithRev(2)},
	} {
		resp, err := client.Get(ctx, key, options...)
		if err != nil || len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != "one" {
			t.Errorf("%s: %v, %v", what, resp, err)
		}
	}
	if _, err := client.Get(ctx, "/registry/pods/", clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByValue, clientv3.SortAscend)); status.Code(err) != codes.PermissionDenied {
		t.Errorf("sorted by values that are not shown: %v", err)
	}
}

func TestDoorLetsOnlyReadsOfItsPrefixesThrough(t *testing.T) {
	s := startServer(t, t.TempDir())
	defer s.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for _, key := range []string{"/registry/services/specs/default/web", "/registry/secrets/default/token"} {
		if _, err := s.Client.Put(ctx, key, "v"); err != nil {
			t.Fatal(err)
		}
	}
	ca := newAuthority(t)
	connect := door(t, s, ca)
	client := connect(ca.config(t, "skep-dns"))

	resp, err := client.Get(ctx, "/registry/services/", clientv3.WithPrefix())
	if err != nil || len(resp.Kvs) != 1 {
		t.Fatalf("range of an allowed prefix: %v, %v; want one key", resp, err)
	}
	for name, do := range map[string]func() error{
		"a secret":          func() error { _, err := client.Get(ctx, "/registry/secrets/default/token"); return err },
		"everything":        func() error { _, err := client.Get(ctx, "\x00", clientv3.WithFromKey()); return err },
		"up from a service": func() error { _, err := client.Get(ctx, "/registry/services/", clientv3.WithFromKey()); return err },
		"past the prefix": func() error {
			_, err := client.Get(ctx, "/registry/services/", clientv3.WithRange("/registry/t"))
			return err
		},
		"all keys, without a prefix": func() error { _, err := client.Get(ctx, "", clientv3.WithPrefix()); return err },
		"the root":                   func() error { _, err := client.Get(ctx, "/registry/", clientv3.WithPrefix()); return err },
		"a neighbour with the same beginning, as in CVE-2022-3162": func() error {
			_, err := client.Get(ctx, "/registry/services", clientv3.WithPrefix())
			return err
		},
		"an end before the key": func() error {
			_, err := client.Get(ctx, "/registry/services/", clientv3.WithRange("/registry/a"))
			return err
		},
		"a watch on everything": func() error { resp := <-client.Watch(ctx, "", clientv3.WithPrefix()); return resp.Err() },
		"a watch up from a service": func() error {
			resp := <-client.Watch(ctx, "/registry/services/", clientv3.WithFromKey())
			return resp.Err()
		},
		"keys only": func() error {
			_, err := client.Get(ctx, "/registry/secrets/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
			return err
		},
		"a count": func() error {
			_, err := client.Get(ctx, "/registry/secrets/", clientv3.WithPrefix(), clientv3.WithCountOnly())
			return err
		},
		"leases":         func() error { _, err := client.Leases(ctx); return err },
		"a lease's keys": func() error { _, err := client.TimeToLive(ctx, 1, clientv3.WithAttachedKeys()); return err },
		"a lease kept alive": func() error { // by the stream itself: when it is refused before the client has sent, that only says EOF
			stream, err := pb.NewLeaseClient(client.ActiveConnection()).LeaseKeepAlive(ctx)
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		},
		"a member added":    func() error { _, err := client.MemberAdd(ctx, []string{"http://127.0.0.1:1"}); return err },
		"the status":        func() error { _, err := client.Status(ctx, client.Endpoints()[0]); return err },
		"a hash":            func() error { _, err := client.HashKV(ctx, client.Endpoints()[0], 0); return err },
		"the alarms":        func() error { _, err := client.AlarmList(ctx); return err },
		"a defragmentation": func() error { _, err := client.Defragment(ctx, client.Endpoints()[0]); return err },
		"a snapshot": func() error {
			reader, err := client.Snapshot(ctx)
			if err == nil {
				_, err = io.ReadAll(reader)
			}
			return err
		},
		"a role":            func() error { _, err := client.RoleAdd(ctx, "r"); return err },
		"authentication on": func() error { _, err := client.AuthEnable(ctx); return err },
		"a prefix's prefix": func() error { _, err := client.Get(ctx, "/registry/service", clientv3.WithPrefix()); return err },
		"a put":             func() error { _, err := client.Put(ctx, "/registry/services/specs/default/web", "x"); return err },
		"a delete":          func() error { _, err := client.Delete(ctx, "/registry/services/specs/default/web"); return err },
		"a transaction": func() error {
			_, err := client.Txn(ctx).Then(clientv3.OpGet("/registry/services/a")).Commit()
			return err
		},
		"a compaction":    func() error { _, err := client.Compact(ctx, 1); return err },
		"a lease":         func() error { _, err := client.Grant(ctx, 10); return err },
		"the member list": func() error { _, err := client.MemberList(ctx); return err },
		"the users":       func() error { _, err := client.UserList(ctx); return err },
		"a watch on secrets": func() error {
			resp := <-client.Watch(ctx, "/registry/secrets/", clientv3.WithPrefix())
			return resp.Err()
		},
	} {
		if err := do(); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v, want PermissionDenied", name, err)
		}
	}
	strange := connect(ca.config(t, "system:node:a"))
	if _, err := strange.Get(ctx, "/registry/services/", clientv3.WithPrefix()); status.Code(err) != codes.PermissionDenied {
		t.Errorf("another of our certificates: %v, want PermissionDenied", err)
	}
}

func TestDoorRefusesCertificatesOfOthers(t *testing.T) {
	s := startServer(t, t.TempDir())
	defer s.Close()
	ca := newAuthority(t)
	connect := door(t, s, ca)
	foreign := newAuthority(t).config(t, "skep-dns")
	foreign.RootCAs = ca.config(t, "x").RootCAs
	for name, cfg := range map[string]*tls.Config{"foreign": foreign, "none": {MinVersion: tls.VersionTLS12, RootCAs: foreign.RootCAs}} {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		if _, err := connect(cfg).Get(ctx, "/registry/services/a"); err == nil {
			t.Errorf("a client with certificate %q was let in", name)
		}
		cancel()
	}
}

func TestDoorForwardsWatches(t *testing.T) {
	s := startServer(t, t.TempDir())
	defer s.Close()
	ca := newAuthority(t)
	client := door(t, s, ca)(ca.config(t, "skep-dns"))
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	services := client.Watch(ctx, "/registry/services/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	pods := client.Watch(ctx, "/registry/pods/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	for _, w := range []clientv3.WatchChan{services, pods} {
		if created := <-w; !created.Created {
			t.Fatalf("watch began with %+v, want that it was created", created)
		}
	}
	for _, key := range []string{"/registry/secrets/a/a", "/registry/pods/a/a", "/registry/services/specs/a/a"} {
		if _, err := s.Client.Put(ctx, key, "v"); err != nil {
			t.Fatal(err)
		}
	}
	for want, w := range map[string]clientv3.WatchChan{"/registry/pods/a/a": pods, "/registry/services/specs/a/a": services} {
		if resp := <-w; len(resp.Events) != 1 || string(resp.Events[0].Kv.Key) != want {
			t.Errorf("watch delivered %+v, want one event of %s", resp, want)
		}
	}
}
