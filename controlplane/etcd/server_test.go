package etcd

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func startServer(t *testing.T, dir string) *Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	begin := time.Now()
	s, err := Start(ctx, Config{DataDir: dir})
	if err != nil {
		t.Fatalf("start etcd: %v", err)
	}
	t.Logf("ready after %s", time.Since(begin).Round(time.Millisecond))
	return s
}

func TestDataOutlivesTheServer(t *testing.T) {
	dir, ctx := t.TempDir(), context.Background()
	s := startServer(t, dir)
	if _, err := s.Client.Put(ctx, "/registry/a", "1"); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = startServer(t, dir)
	defer s.Close()
	resp, err := s.Client.Get(ctx, "/registry/a")
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != "1" {
		t.Errorf("after a restart the key holds %v, want 1", resp.Kvs)
	}
}

func TestTwoServersOnOneDirectory(t *testing.T) {
	dir := t.TempDir()
	s := startServer(t, dir)
	defer s.Close()
	_, err := Start(context.Background(), Config{DataDir: dir})
	if err == nil || !strings.Contains(err.Error(), "in use by another skepd") || !strings.Contains(err.Error(), "--data-dir") {
		t.Errorf("second server on %s: %v, want an error that says who uses it and what to do", dir, err)
	}
	other := startServer(t, t.TempDir())
	defer other.Close()
	if _, err := other.Client.Put(context.Background(), "/registry/a", "1"); err != nil {
		t.Errorf("a server beside it on another directory: %v", err)
	}
}

func TestBadDirectories(t *testing.T) {
	for _, tc := range []struct {
		name, path, content, want string
	}{
		{"foreign", "etcd/holiday.jpg", "x", "holiday.jpg"},
		{"member is a file", "etcd/member", "x", "is not a directory"},
		{"database is garbage", "etcd/member/snap/db", strings.Repeat("garbage!", 4096), "is unreadable"},
		{"log is garbage", "etcd/member/wal/0000000000000000-0000000000000000.wal", strings.Repeat("garbage!", 4096), "start etcd on"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, tc.path)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(tc.content), 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := Start(context.Background(), Config{DataDir: dir})
			if err == nil {
				s.Close()
				t.Fatal("started")
			}
			if !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %q, want one line with %q", err, tc.want)
			}
		})
	}
}

func TestWatchesEndWithTheServer(t *testing.T) {
	s := startServer(t, t.TempDir())
	watch := s.Client.Watch(context.Background(), "/registry/", clientv3.WithPrefix())
	if _, err := s.Client.Put(context.Background(), "/registry/a", "1"); err != nil {
		t.Fatal(err)
	}
	if resp := <-watch; len(resp.Events) != 1 {
		t.Fatalf("watch delivered %+v, want the put", resp)
	}
	s.Close()
	select {
	case _, open := <-watch:
		for open {
			_, open = <-watch
		}
	case <-time.After(10 * time.Second):
		t.Error("a watch outlived its server")
	}
}
