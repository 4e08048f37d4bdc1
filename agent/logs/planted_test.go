package logs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/agent/confine"
)

// A log is read and written only as the regular file that it is: a FIFO in its place would stop the output of all containers.
func TestOnlyRegularFilesAreLogs(t *testing.T) {
	for name, plant := range map[string]func(path string) error{
		"a FIFO":   func(path string) error { return unix.Mkfifo(path, 0o600) },
		"a device": func(path string) error { return unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))) },
		"a link":   func(path string) error { return os.Symlink("/etc/hostname", path) },
	} {
		path := filepath.Join(t.TempDir(), "0.log")
		if err := plant(path); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			tail := int64(1)
			for _, opts := range []corev1.PodLogOptions{{}, {TailLines: &tail}} {
				if err := Read(context.Background(), path, opts, io.Discard, io.Discard); !errors.Is(err, confine.ErrNotRegular) {
					t.Errorf("%s: read with error %v", name, err)
				}
			}
			if _, err := openFile(path, MaxFileSize); !errors.Is(err, confine.ErrNotRegular) {
				t.Errorf("%s: opened for writing with error %v", name, err)
			}
		}()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Fatalf("%s is waited for", name)
		}
	}
}

// A line without an end costs no memory, read forwards or backwards.
func TestEndlessLinesAreNotKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	first, last := testStamp+" stdout F first\n", "\n"+testStamp+" stdout F last\n"
	if err := os.WriteFile(path, []byte(first), 0o600); err != nil {
		t.Fatal(err)
	}
	const hole = 32 << 20
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(last), int64(len(first)+hole)); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if got := read(t, path, corev1.PodLogOptions{}); got != "first\nlast\n" {
		t.Errorf("read %q", got)
	}
	for lines, want := range map[int64]string{1: "last\n", 5: "first\nlast\n"} {
		if got := read(t, path, corev1.PodLogOptions{TailLines: &lines}); got != want {
			t.Errorf("the last %d lines: %q", lines, got)
		}
	}
	runtime.ReadMemStats(&after)
	if grew := after.TotalAlloc - before.TotalAlloc; grew > 4*hole {
		t.Errorf("%d MiB were allocated for %d", grew>>20, hole>>20)
	}
}

func FuzzRecord(f *testing.F) {
	for _, seed := range []string{
		testStamp + " stdout F text", testStamp + " stderr P ", testStamp + " stdout F", testStamp + " stdout P:x a b", "2026-01-02T03:04:05+01:00 stdout F x",
		strings.Repeat("9", 40) + " stderr F x", " stdout F x", testStamp + "  F x", testStamp + " stdout F \x00\xff",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		rec, ok := parseRecord(line)
		if !ok {
			return
		}
		_, _ = rec.when()
		again, ok := parseRecord(bytes.TrimSuffix(appendRecord(nil, rec.time, string(rec.stream), rec.partial, rec.text), []byte{'\n'}))
		if !ok || !bytes.Equal(again.time, rec.time) || !bytes.Equal(again.stream, rec.stream) || again.partial != rec.partial || !bytes.Equal(again.text, rec.text) {
			t.Errorf("%q became %+v", line, again)
		}
	})
}

// Whatever a log file holds, reading it ends, shows no more than there is, and its last lines are the end of all lines.
func FuzzRead(f *testing.F) {
	f.Add([]byte(testStamp+" stdout F one\n"+testStamp+" stderr F bad\ntorn\n"+testStamp+" stdout P tw\n"+testStamp+" stdout F o\n"+testStamp+" stdout P rest"), uint8(2))
	f.Add([]byte("\n\n\n"), uint8(0))
	f.Add([]byte(testStamp+" stdout F x\n"+strings.Repeat("y", maxRecord)+"\n"+testStamp+" stdout F z"), uint8(3))
	f.Add(bytes.Repeat([]byte(testStamp+" stdout P x\n"), 5), uint8(1))
	f.Add(bytes.Repeat([]byte{'x'}, 200<<10), uint8(1))
	f.Fuzz(func(t *testing.T, data []byte, lines uint8) {
		path := filepath.Join(t.TempDir(), "0.log")
		if err := os.WriteFile(path, data, 0o440); err != nil {
			t.Fatal(err)
		}
		stdout := corev1.LogStreamStdout
		all := read(t, path, corev1.PodLogOptions{Stream: &stdout})
		if len(all) > len(data) {
			t.Errorf("%d bytes of %d", len(all), len(data))
		}
		n, every := int64(lines), int64(1<<40)
		if tail := read(t, path, corev1.PodLogOptions{Stream: &stdout, TailLines: &n}); !strings.HasSuffix(all, tail) {
			t.Errorf("the last %d lines %q are not the end of %q", n, tail, all)
		}
		if tail := read(t, path, corev1.PodLogOptions{Stream: &stdout, TailLines: &every}); tail != all {
			t.Errorf("all lines from the end %q, from the start %q", tail, all)
		}
	})
}
