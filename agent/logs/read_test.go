package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestRotationKeepsThreeFilesAndReadersFollowAcross(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c", "0.log")
	f, err := openFile(path, 1000)
	if err != nil {
		t.Fatal(err)
	}
	add := func(i int) {
		if err := f.write(appendRecord(nil, []byte(testStamp), Stdout, false, fmt.Appendf(nil, "line %03d", i))); err != nil {
			t.Fatal(err)
		}
	}
	add(0)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	seen, show := io.Pipe()
	go func() { show.CloseWithError(Read(ctx, path, corev1.PodLogOptions{Follow: true}, show, show)) }()
	var want strings.Builder
	const lines = 100
	for i := range lines {
		if i > 0 {
			add(i)
		}
		line := fmt.Sprintf("line %03d\n", i)
		buf := make([]byte, len(line))
		if _, err := io.ReadFull(seen, buf); err != nil || string(buf) != line {
			t.Fatalf("followed %q, %v, want %q", buf, err, line)
		}
		want.WriteString(line)
	}
	if err := f.seal(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(seen); err != nil || len(rest) != 0 {
		t.Fatalf("after the end %q, %v", rest, err)
	}
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) != MaxFiles {
		t.Fatalf("files: %v, %v", files, err)
	}
	all := read(t, path, corev1.PodLogOptions{})
	if !strings.HasSuffix(want.String(), all) || len(all) < 2*1000/len(testStamp) {
		t.Fatalf("the kept files read %q", all)
	}
	for _, n := range []int64{0, 1, 5, 30, 40, 1000} {
		got := read(t, path, corev1.PodLogOptions{TailLines: &n})
		kept := strings.SplitAfter(strings.TrimSuffix(all, "\n"), "\n")
		expect := strings.Join(kept[max(len(kept)-int(n), 0):], "") + "\n"
		if n == 0 {
			expect = ""
		}
		if got != expect {
			t.Errorf("last %d lines: %q, want %q", n, got, expect)
		}
	}
}

func read(t *testing.T, path string, opts corev1.PodLogOptions) string {
	t.Helper()
	var out bytes.Buffer
	if err := Read(context.Background(), path, opts, &out, &out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestReadOptions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	text := `2026-01-02T03:04:01.000000000Z stdout F one
2026-01-02T03:04:02.000000000Z stderr F bad
torn record of a crash
2026-01-02T03:04:03.000000000Z stdout P tw
2026-01-02T03:04:03.500000000Z stderr F worse
2026-01-02T03:04:04.000000000Z stdout F o
2026-01-02T03:04:05.000000000Z stdout P rest`
	if err := os.WriteFile(path, []byte(text), 0o440); err != nil {
		t.Fatal(err)
	}
	n := func(v int64) *int64 { return &v }
	since := metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 3, 0, time.UTC))
	stdout, stderr := corev1.LogStreamStdout, corev1.LogStreamStderr
	for name, c := range map[string]struct {
		opts corev1.PodLogOptions
		want string
	}{
		"all":        {corev1.PodLogOptions{}, "one\nbad\ntwworse\no\nrest"},
		"stdout":     {corev1.PodLogOptions{Stream: &stdout}, "one\ntwo\nrest"},
		"stderr":     {corev1.PodLogOptions{Stream: &stderr}, "bad\nworse\n"},
		"tail":       {corev1.PodLogOptions{Stream: &stdout, TailLines: n(2)}, "two\nrest"},
		"since":      {corev1.PodLogOptions{Stream: &stdout, SinceTime: &since}, "two\nrest"},
		"limit":      {corev1.PodLogOptions{LimitBytes: n(5)}, "one\nb"},
		"timestamps": {corev1.PodLogOptions{Stream: &stdout, Timestamps: true, TailLines: n(2)}, "2026-01-02T03:04:03.000000000Z two\n2026-01-02T03:04:05.000000000Z rest"},
	} {
		if got := read(t, path, c.opts); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if err := Read(context.Background(), filepath.Join(t.TempDir(), "none.log"), corev1.PodLogOptions{TailLines: n(3)}, io.Discard, io.Discard); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a log that is not there: %v", err)
	}
}
