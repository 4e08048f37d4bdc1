// Package etcd runs the etcd server that skepd embeds, alone or as a member of a cluster, and the read-only endpoint
// to a store through which cluster DNS follows it. It owns the server's data directory and its port for other members.
// It does not handle API objects: those are stored through package storage.
package etcd

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
)

const (
	// memberName and lonePeerURL name a member without others in its own records. It has no
	// peers, so nothing listens there.
	memberName  = "skepd"
	lonePeerURL = "http://localhost:2380"

	tickMillis      = 50
	electionMillis  = 500
	quotaBytes      = 8 << 30
	maxRequestBytes = 8 << 20
	compactAfter    = "5m"
	progressEvery   = 20 * time.Second
	// readyTimeout bounds the election of itself; replaying the log comes before it and has no limit.
	readyTimeout = 20 * time.Second
	// lockTimeout is how long to wait for an etcd that is not skepd's to release the database.
	lockTimeout = time.Second
)

// Config says where the server keeps its data.
type Config struct {
	// DataDir is skepd's; the server's data is in the folder etcd below it.
	DataDir string
	// QuotaBytes is the size of the database from which on etcd takes deletions only; 0: 8 GiB.
	QuotaBytes int64
	// Name is the member's among several; empty: skepd.
	Name string
	// Peer says how other members reach this one; nil: there can be none.
	Peer *Peer
	// Lock is held on the data already; nil: Start takes it.
	Lock *Lock
}

// Peer is how a member and the others reach each other.
type Peer struct {
	// URL is https://ADDR:PORT, at which the others connect; Listen is ADDR:PORT here. Nothing listens while there are no other members.
	URL, Listen string
	// TLS is for the connections of the others; the files, for those to the others.
	TLS                       *tls.Config
	CertFile, KeyFile, CAFile string
	// Members are the other members of the cluster that the server joins, by name, with their URLs; only used until it has heard of them from the cluster.
	Members map[string]string
}

// ErrRemoved says that the member was removed from its cluster.
var ErrRemoved = errors.New("the other members have removed this one from the cluster")

// Server is a running etcd server. It listens only for other members, if there are any: this
// process reaches it by calls.
type Server struct {
	Client *clientv3.Client

	etcd  *embed.Etcd
	lock  *Lock
	quota int64
	name  string
	peers *peers
}

// Start starts the server on its data, or on an empty directory, and returns
// once it can be written to; a member that joins a cluster, once it is a full member. A second server on the same data is an error.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	lock := cfg.Lock
	if lock == nil {
		var err error
		if lock, err = TakeLock(cfg.DataDir); err != nil {
			return nil, err
		}
	}
	dir := lock.dir
	if err := checkDir(dir); err != nil {
		lock.Release()
		return nil, err
	}
	if cfg.Peer != nil && len(cfg.Peer.Members) > 0 {
		if err := lock.discardUnstarted(); err != nil {
			lock.Release()
			return nil, err
		}
	}
	s := &Server{lock: lock, quota: cmp.Or(cfg.QuotaBytes, quotaBytes), name: cmp.Or(cfg.Name, memberName)}
	if err := s.start(ctx, dir, cfg.Peer); err != nil {
		lock.Release()
		return nil, fmt.Errorf("start etcd on %s: %w", dir, err)
	}
	return s, nil
}

// Close stops the server; what has been written is on disk.
func (s *Server) Close() {
	// The client is part of the server and its watches end with it.
	_ = s.Client.Close()
	s.peers.close()
	s.etcd.Close()
	s.lock.Release()
}

// Wait returns when the server stops by itself, with the reason, or when ctx ends.
func (s *Server) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-s.etcd.Err():
		return err
	case <-s.etcd.Server.StoppingNotify():
	}
	return s.stopped()
}

// stopped is why the server stopped. etcd stops by itself, without an error, only when it learns that it was removed.
func (s *Server) stopped() error { return ErrRemoved }

// checkDir refuses a directory that holds anything but etcd's data.
func checkDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read etcd's data directory: %w", err)
	}
	var foreign []string
	for _, e := range entries {
		switch e.Name() {
		case "member", lockName:
		default:
			foreign = append(foreign, e.Name())
		}
	}
	if len(foreign) > 0 {
		return fmt.Errorf("%s is not a data directory of skepd's etcd: it holds %s; name another --data-dir, or move that away",
			dir, strings.Join(foreign, ", "))
	}
	return checkMember(filepath.Join(dir, "member"))
}

// checkMember makes an error of problems on which etcd would end the process.
func checkMember(member string) error {
	if info, err := os.Stat(member); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("read etcd's data directory: %w", err)
	} else if !info.IsDir() {
		return fmt.Errorf("%s is not a directory: no etcd has its data there", member)
	}
	path := filepath.Join(member, "snap", "db")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: lockTimeout})
	if err != nil {
		return fmt.Errorf("etcd's database %s is unreadable: %w; restore it from a backup, or name another --data-dir", path, err)
	}
	return db.Close()
}

// fatal is what etcd panics with where it would end the process.
type fatal struct{ message string }

func (f fatal) Error() string { return "etcd: " + f.message }

func (s *Server) start(ctx context.Context, dir string, peer *Peer) (err error) {
	running, hook, err := launch(dir, s.name, s.quota, peer)
	if err != nil {
		return explain(dir, err)
	}
	s.etcd, s.Client = running, newClient(running.Server)
	s.peers = &peers{server: running.Server, config: peer}
	if err = s.connect(ctx); err == nil {
		err = s.ready(ctx, hook)
	}
	if err != nil {
		s.peers.close()
		running.Close()
	}
	return err
}

// launch starts etcd, which is not ready then.
func launch(dir, name string, quota int64, peer *Peer) (running *embed.Etcd, hook *fatalHook, err error) {
	defer func() {
		// etcd ends the process when its data is unreadable; the logger makes a panic of that.
		switch v := recover().(type) {
		case nil:
		case error:
			err = v
		default:
			err = fmt.Errorf("%v", v)
		}
	}()
	hook = &fatalHook{dir: dir}
	running, err = embed.StartEtcd(config(dir, name, quota, peer, hook))
	return running, hook, err
}

// ready waits until the server takes writes. A member of several waits for the others without a limit: they may be switched on later.
func (s *Server) ready(ctx context.Context, hook *fatalHook) error {
	limit := time.After(readyTimeout)
	for {
		select {
		case <-s.etcd.Server.ReadyNotify():
			hook.started.Store(true)
			return s.promote(ctx)
		case err := <-s.etcd.Err():
			return err
		case <-s.etcd.Server.StoppingNotify():
			return s.stopped()
		case <-ctx.Done():
			return ctx.Err()
		case <-limit:
		}
		others := s.others()
		if len(others) == 0 {
			return fmt.Errorf("not ready after %s", readyTimeout)
		}
		slog.Warn("etcd waits for the other servers: it works as soon as more than half of them are connected", "others", others)
		limit = time.After(readyTimeout)
	}
}

func config(dir, name string, quota int64, peer *Peer, hook *fatalHook) *embed.Config {
	cfg := embed.NewConfig()
	cfg.Dir = dir
	cfg.Name = name
	own := lonePeerURL
	if peer != nil {
		cfg.PeerTLSInfo = transport.TLSInfo{CertFile: peer.CertFile, KeyFile: peer.KeyFile, TrustedCAFile: peer.CAFile}
		if len(peer.Members) > 0 {
			own, cfg.ClusterState = peer.URL, embed.ClusterStateFlagExisting
		}
	}
	cfg.InitialCluster = name + "=" + own
	if peer != nil {
		for other, at := range peer.Members {
			cfg.InitialCluster += "," + other + "=" + at
		}
	}
	at, err := url.Parse(own)
	if err != nil {
		panic(err) // made of an address and a port
	}
	cfg.AdvertisePeerUrls = []url.URL{*at}
	// This package listens for peers itself: from the moment on that there are any.
	cfg.ListenPeerUrls, cfg.ListenClientUrls, cfg.AdvertiseClientUrls = nil, nil, nil
	cfg.TickMs, cfg.ElectionMs = tickMillis, electionMillis
	cfg.QuotaBackendBytes = quota
	cfg.MaxRequestBytes = maxRequestBytes
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = embed.CompactorModePeriodic, compactAfter
	cfg.WatchProgressNotifyInterval = progressEvery
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(newLogger(hook))
	return cfg
}
