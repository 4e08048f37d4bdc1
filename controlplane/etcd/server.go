// Package etcd runs the etcd server that skepd embeds, and the read-only endpoint
// to a store through which cluster DNS follows it. It owns the server's data directory.
// It does not handle API objects: those are stored through package storage.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
)

const (
	// memberName and peerURL name the one member in its own records. It has no
	// peers, so nothing listens there.
	memberName = "skepd"
	peerURL    = "http://localhost:2380"

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
}

// Server is a running etcd server with one member. It listens nowhere: this
// process reaches it by calls.
type Server struct {
	Client *clientv3.Client

	etcd  *embed.Etcd
	lock  *os.File
	quota int64
}

// Start starts the server on its data, or on an empty directory, and returns
// once it can be written to. A second server on the same data is an error.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	dir := filepath.Join(cfg.DataDir, "etcd")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create the directory for etcd's data: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	if err := checkDir(dir); err != nil {
		lock.Close()
		return nil, err
	}
	if cfg.QuotaBytes == 0 {
		cfg.QuotaBytes = quotaBytes
	}
	running, err := start(ctx, dir, cfg.QuotaBytes)
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("start etcd on %s: %w", dir, err)
	}
	return &Server{Client: v3client.New(running.Server), etcd: running, lock: lock, quota: cfg.QuotaBytes}, nil
}

// Close stops the server; what has been written is on disk.
func (s *Server) Close() {
	// The client is part of the server and its watches end with it.
	_ = s.Client.Close()
	s.etcd.Close()
	s.lock.Close()
}

// Err reports when the server stops by itself.
func (s *Server) Err() <-chan error { return s.etcd.Err() }

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

func start(ctx context.Context, dir string, quota int64) (running *embed.Etcd, err error) {
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
	hook := &fatalHook{dir: dir}
	running, err = embed.StartEtcd(config(dir, quota, hook))
	if err != nil {
		return nil, explain(dir, err)
	}
	select {
	case <-running.Server.ReadyNotify():
		hook.started.Store(true)
		return running, nil
	case err = <-running.Err():
	case <-ctx.Done():
		err = ctx.Err()
	case <-time.After(readyTimeout):
		err = fmt.Errorf("not ready after %s; if its data is that of a cluster with several members, it can't be used here", readyTimeout)
	}
	running.Close()
	return nil, err
}

func config(dir string, quota int64, hook *fatalHook) *embed.Config {
	cfg := embed.NewConfig()
	cfg.Dir = dir
	cfg.Name = memberName
	peer, err := url.Parse(peerURL)
	if err != nil {
		panic(err) // a constant
	}
	cfg.AdvertisePeerUrls = []url.URL{*peer}
	cfg.InitialCluster = memberName + "=" + peerURL
	cfg.ListenPeerUrls, cfg.ListenClientUrls, cfg.AdvertiseClientUrls = nil, nil, nil
	cfg.TickMs, cfg.ElectionMs = tickMillis, electionMillis
	cfg.QuotaBackendBytes = quota
	cfg.MaxRequestBytes = maxRequestBytes
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = embed.CompactorModePeriodic, compactAfter
	cfg.WatchProgressNotifyInterval = progressEvery
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(newLogger(hook))
	return cfg
}
