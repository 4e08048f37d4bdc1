package logs

import (
	"context"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A writer that is stopped accepts connections and never answers: another replaces it, so that containers' output is still
// written.
func TestWriterThatNeverAnswers(t *testing.T) {
	dir := t.TempDir()
	l, stop := startLogs(t, dir, "1")
	stop()
	l.cfg.Patience = 3 * time.Second
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := l.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer func() {
		cancel()
		running.Wait()
		if err := StopWriter(filepath.Join(dir, "run")); err != nil {
			t.Error(err)
		}
	}()
	version := func() (response, error) {
		asking, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		asker := &Logs{cfg: l.cfg}
		defer asker.disconnect()
		return asker.exchange(asking, request{Do: "version"})
	}
	first, err := version()
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(first.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	for {
		second, err := version()
		if err == nil && second.PID != first.PID {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no other writer in a minute: %+v, %v", second, err)
		}
	}
	if _, _, err := l.Open("uid1", "main", 0, "c1", false); err != nil {
		t.Errorf("a container's log: %v", err)
	}
	l.Close("c1")
}
