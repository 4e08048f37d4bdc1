package etcd

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fillDir, if set, makes the test binary the process that TestFullDisk fills a disk with.
const fillDir = "SKEP_ETCD_FILL_DIR"

// diskSize holds etcd's log, which takes 64 MiB twice in advance, a small database, and the room that is made in the end: more
// than a part of the log, since trying for one takes all that there is for a moment.
const (
	diskSize = "size=240m"
	madeRoom = 80 << 20
)

// fillDisk writes large values and prints which are acknowledged, until etcd ends the process.
func fillDisk(dir string) error {
	ctx := context.Background()
	s, err := Start(ctx, Config{DataDir: dir})
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		key := fmt.Sprintf("/registry/%d/key-%d", os.Getpid(), i)
		if _, err := s.Client.Put(ctx, key, strings.Repeat(key, 128<<10/len(key))); err != nil {
			return err
		}
		fmt.Println(key)
	}
}

// onFullDisk runs fillDisk in a process, and returns what it acknowledged and its last output.
func onFullDisk(t *testing.T, dir string) (acknowledged []string, said string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), fillDir+"="+dir)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err == nil || ctx.Err() != nil {
		t.Fatalf("the process did not end on a full disk: %v\n%s", err, tail(stderr.String()))
	}
	for lines := bufio.NewScanner(&stdout); lines.Scan(); {
		acknowledged = append(acknowledged, lines.Text())
	}
	return acknowledged, stderr.String()
}

func tail(text string) string { return text[max(0, len(text)-2000):] }

// When the disk is full, the process ends with an error that names the disk, acknowledged values are there after room was made, and a start
// in between ends with the same error and harms nothing.
func TestFullDisk(t *testing.T) {
	mount := t.TempDir()
	if err := unix.Mount("tmpfs", mount, "tmpfs", 0, diskSize); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mount, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	dir := filepath.Join(mount, "skepd")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(mount, "ballast")
	if err := os.WriteFile(ballast, make([]byte, madeRoom), 0o600); err != nil {
		t.Fatal(err)
	}
	written, said := onFullDisk(t, dir)
	if len(written) == 0 || !strings.Contains(said, "no space left on device") || !strings.Contains(said, "the disk of "+filepath.Join(dir, "etcd")+" is full") {
		t.Fatalf("after %d writes the process ended with\n%s", len(written), tail(said))
	}
	// Until the disk is full.
	rest, err := os.Create(filepath.Join(mount, "rest"))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(rest, zeros{}) // until there is no space
	rest.Close()
	more, said := onFullDisk(t, dir)
	if !strings.Contains(said, "no space left on device") || !strings.Contains(said, dir) {
		t.Errorf("a start on a full disk ended with\n%s", tail(said))
	}
	written = append(written, more...)
	for _, path := range []string{ballast, rest.Name()} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	s, err := Start(t.Context(), Config{DataDir: dir})
	if err != nil {
		t.Fatalf("with room again: %v", err)
	}
	defer s.Close()
	for _, key := range written {
		got, err := s.Client.Get(t.Context(), key)
		if err != nil || len(got.Kvs) != 1 || !strings.HasPrefix(string(got.Kvs[0].Value), key) {
			t.Fatalf("%s was acknowledged and is not there: %v", key, err)
		}
	}
	if _, err := s.Client.Put(t.Context(), "/after", "x"); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
