package etcd

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// writerDir, if set, makes the test binary the process that TestKilledServer kills.
const writerDir = "SKEP_ETCD_WRITER_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(writerDir); dir != "" {
		fmt.Fprintln(os.Stderr, write(dir))
		os.Exit(1)
	}
	if dir := os.Getenv(fillDir); dir != "" {
		fmt.Fprintln(os.Stderr, fillDisk(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// write writes keys and prints them, until it is killed.
func write(dir string) error {
	ctx := context.Background()
	s, err := Start(ctx, Config{DataDir: dir})
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		key := fmt.Sprintf("/registry/key-%d", i)
		if _, err := s.Client.Put(ctx, key, key); err != nil {
			return err
		}
		fmt.Println(key)
	}
}

func TestKilledServerKeepsWhatItAcknowledged(t *testing.T) {
	dir := t.TempDir()
	for round := range 3 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), writerDir+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var written []string
		for lines := bufio.NewScanner(out); lines.Scan(); {
			// The last line may be cut by the kill; only whole keys are kept, which end in a digit anyway.
			written = append(written, strings.TrimSpace(lines.Text()))
			if len(written) == 50 {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // killed, as it should be
		if len(written) < 50 {
			t.Fatalf("round %d: the writer wrote only %d keys", round, len(written))
		}
		s := startServer(t, dir)
		for _, key := range written {
			resp, err := s.Client.Get(context.Background(), key)
			if err != nil {
				t.Fatal(err)
			}
			if len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != key {
				t.Errorf("round %d: %s was acknowledged before the kill and is lost", round, key)
			}
		}
		s.Close()
	}
}
