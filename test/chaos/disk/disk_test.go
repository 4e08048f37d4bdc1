package disk

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// writer, if set, makes the test binary a process that writes to that file and syncs it 10 times for each byte that it reads.
const writer = "SKEP_DISK_WRITER"

func TestMain(m *testing.M) {
	if os.Getenv(writer) == "" {
		os.Exit(m.Run())
	}
	if err := write(os.Getenv(writer)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func write(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	one := make([]byte, 1)
	for {
		if _, err := os.Stdin.Read(one); err != nil {
			return nil
		}
		for range 10 {
			if _, err := f.WriteAt(make([]byte, 4096), 0); err != nil {
				return err
			}
			if err := f.Sync(); err != nil {
				return err
			}
		}
		if _, err := os.Stdout.Write(one); err != nil {
			return err
		}
	}
}

func TestFullAndSlow(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "mounted")
	d, err := Mount(folder, 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Unmount(); err != nil {
			t.Error(err)
		}
	})

	empty, err := d.Fill()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(folder, "f")
	if err := os.WriteFile(file, make([]byte, 8192), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a write to the full disk: %v", err)
	}
	if err := empty(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, make([]byte, 8192), 0o600); err != nil {
		t.Errorf("a write to the disk with room: %v", err)
	}

	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), writer+"="+file)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	ten := func() time.Duration {
		t.Helper()
		began := time.Now()
		if _, err := in.Write([]byte{0}); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		return time.Since(began)
	}
	ten()
	group := fmt.Sprintf("skep-disk-test-%d", os.Getpid())
	restore, err := d.Slow(group, []int{cmd.Process.Pid}, 5)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(filepath.Join(blkio, group)); err != nil {
			t.Error(err)
		}
	})
	slow := ten()
	// The throttle counts in slices of time, so the first second or two may hold more.
	if slow += ten(); slow < 2*time.Second {
		t.Errorf("20 writes took %v at 5 writes a second", slow)
	}
	if err := restore(); err != nil {
		t.Fatal(err)
	}
	ten() // what waited before
	if again := ten(); again > slow/2 {
		t.Errorf("10 writes took %v at full speed, 20 took %v when it was slow", again, slow)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}
