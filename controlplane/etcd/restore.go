package etcd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"

	"github.com/skep-io/skep/durable"
)

// revisionBump is by how much a restored database's revision is above its snapshot's:
// more than was written since. Clients and caches that have a revision of that time must
// not take it for one of the restored history.
const revisionBump = 1_000_000_000

// Restore makes the data of skepd's etcd in an empty data directory from a
// snapshot, whose sum it checks. All history before counts as compacted, so that
// all watchers list again. An interrupted restore leaves nothing that a start would take
// for data.
func Restore(snapshotPath, dataDir string) error {
	if _, err := os.Stat(snapshotPath); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return fmt.Errorf("create the data directory: %w", err)
	}
	target, unfinished := filepath.Join(dataDir, "etcd"), filepath.Join(dataDir, "etcd.restoring")
	if err := makeWay(target); err != nil {
		return err
	}
	if err := os.RemoveAll(unfinished); err != nil {
		return fmt.Errorf("clean up after an earlier restore: %w", err)
	}
	err := snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
		SnapshotPath: snapshotPath, OutputDataDir: unfinished,
		Name: memberName, PeerURLs: []string{lonePeerURL}, InitialCluster: memberName + "=" + lonePeerURL, InitialClusterToken: "skepd",
		RevisionBump: revisionBump, MarkCompacted: true,
	})
	if err != nil {
		return errors.Join(fmt.Errorf("restore %s: %w", snapshotPath, err), os.RemoveAll(unfinished))
	}
	if err := os.Rename(unfinished, target); err != nil {
		return err
	}
	return durable.SyncDir(dataDir)
}

// makeWay removes an etcd folder without data, and refuses one with data or in use.
func makeWay(target string) error {
	if _, err := os.Stat(target); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	lock, err := lockDir(target)
	if err != nil {
		return err
	}
	defer lock.Close()
	entries, err := os.ReadDir(target)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != lockName {
			return fmt.Errorf("%s holds data (%s): a restore takes an empty data directory; move %s away first", target, e.Name(), target)
		}
	}
	return os.RemoveAll(target)
}
