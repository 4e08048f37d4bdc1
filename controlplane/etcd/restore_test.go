package etcd

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Values written before a snapshot are there after a restore, later ones are not, and no client takes an earlier revision for one of the
// restored history.
func TestSnapshotAndRestore(t *testing.T) {
	dir := t.TempDir()
	s, err := Start(t.Context(), Config{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	put := func(s *Server, key string) int64 {
		t.Helper()
		resp, err := s.Client.Put(t.Context(), key, "value")
		if err != nil {
			t.Fatal(err)
		}
		return resp.Header.Revision
	}
	put(s, "/before")
	reader, err := s.Maintainer().Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(reader)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "snapshot.db")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	known := put(s, "/after")
	if err := Restore(file, dir); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a restore under a running etcd: %v", err)
	}
	s.Close()
	if err := Restore(file, dir); err == nil || !strings.Contains(err.Error(), "holds data") {
		t.Errorf("a restore over data: %v", err)
	}

	fresh := t.TempDir()
	broken := filepath.Join(t.TempDir(), "broken.db")
	if err := os.WriteFile(broken, append(data[:len(data)/2:len(data)/2], make([]byte, 32)...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Restore(broken, fresh); err == nil {
		t.Error("half a snapshot was restored")
	}
	if err := Restore(file, fresh); err != nil {
		t.Fatal(err)
	}
	if s, err = Start(t.Context(), Config{DataDir: fresh}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	got, err := s.Client.Get(t.Context(), "/", clientv3.WithPrefix())
	if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Key) != "/before" {
		t.Errorf("restored: %v (%v)", got, err)
	}
	if got.Header.Revision < known+revisionBump/2 {
		t.Errorf("the restored revision is %d, clients know %d", got.Header.Revision, known)
	}
	resp := <-s.Client.Watch(t.Context(), "/", clientv3.WithPrefix(), clientv3.WithRev(known))
	if resp.CompactRevision == 0 && resp.Err() != rpctypes.ErrCompacted {
		t.Errorf("a watch from a known revision goes on with %+v", resp)
	}
	put(s, "/more")
}
