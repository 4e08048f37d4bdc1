package logs

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What a live container writes is in its log after one look at its FIFO; that of others waits for the end of the line.
func TestOnlyLiveContainersShowUnfinishedLinesAtOnce(t *testing.T) {
	dir := t.TempDir()
	w, err := NewWriter(dir, 0, slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	for _, live := range []bool{true, false} {
		id := map[bool]string{true: "live", false: "other"}[live]
		folder, log := filepath.Join(dir, id), filepath.Join(t.TempDir(), "0.log")
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, "log"), []byte(log), 0o600); err != nil {
			t.Fatal(err)
		}
		if live {
			if err := os.WriteFile(filepath.Join(folder, liveMark), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range []string{Stdout, Stderr} {
			if err := unix.Mkfifo(filepath.Join(folder, name), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.open(id); err != nil {
			t.Fatal(err)
		}
		stdout, err := os.OpenFile(filepath.Join(folder, Stdout), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer stdout.Close()
		if _, err := io.WriteString(stdout, "done\nprompt> "); err != nil {
			t.Fatal(err)
		}
		w.read(w.containers[id].streams[0])
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), " stdout F done\n") || strings.Contains(string(text), " stdout P prompt> \n") != live {
			t.Errorf("live %v: the log is %q", live, text)
		}
		if err := w.finishContainer(id); err != nil {
			t.Error(err)
		}
	}
}
