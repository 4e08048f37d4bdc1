package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// The test binary is also the writer process.
func TestMain(m *testing.M) {
	if dir := os.Getenv("SKEP_TEST_LOG_WRITER"); dir != "" {
		if err := Serve(context.Background(), dir, os.Getenv("SKEP_TEST_LOG_VERSION"), slog.Default(), Ready); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func newLogs(t *testing.T, dir, version string) *Logs {
	t.Helper()
	l, stop := startLogs(t, dir, version)
	t.Cleanup(func() {
		stop()
		if err := StopWriter(filepath.Join(dir, "run")); err != nil {
			t.Error(err)
		}
	})
	return l
}

// startLogs is an agent's part; stop ends the agent and leaves the writer.
func startLogs(t *testing.T, dir, version string) (l *Logs, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l, err := New(ctx, Config{
		StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run"), Version: version,
		Command: []string{"/usr/bin/env", "SKEP_TEST_LOG_WRITER=" + filepath.Join(dir, "run"), "SKEP_TEST_LOG_VERSION=" + version, os.Args[0]},
	})
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		if err := l.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	return l, func() {
		cancel()
		running.Wait()
	}
}

func (l *Logs) writerPID(t *testing.T) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	l.mu.Lock()
	defer l.mu.Unlock()
	a, err := l.exchange(ctx, request{Do: "version"})
	if err != nil {
		t.Fatal(err)
	}
	return a.PID
}

// shim opens a container's FIFOs as containerd's shim does: for writing, and for reading so that they outlive their reader.
type shim struct{ stdout, stderr, spareOut, spareErr *os.File }

func openShim(t *testing.T, l *Logs, pod, container, id string) *shim {
	t.Helper()
	out, errOut, err := l.Open(pod, container, 0, id, false)
	if err != nil {
		t.Fatal(err)
	}
	open := func(path string, flag int) *os.File {
		f, err := os.OpenFile(path, flag, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	return &shim{
		stdout: open(out, os.O_WRONLY), stderr: open(errOut, os.O_WRONLY),
		spareOut: open(out, os.O_RDONLY|unix.O_NONBLOCK), spareErr: open(errOut, os.O_RDONLY|unix.O_NONBLOCK),
	}
}

func (s *shim) close() {
	for _, f := range []*os.File{s.stdout, s.stderr, s.spareOut, s.spareErr} {
		f.Close()
	}
}

func (s *shim) print(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(s.stdout, text); err != nil {
		t.Fatal(err)
	}
}

// followed reads a log to its end, as kubectl logs -f.
func followed(t *testing.T, path string, opts corev1.PodLogOptions) (out, errOut string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	opts.Follow = true
	var a, b bytes.Buffer
	if err := Read(ctx, path, opts, &a, &b); err != nil {
		t.Fatal(err)
	}
	if ctx.Err() != nil {
		t.Fatalf("the log did not end; so far %.200q", a.String())
	}
	return a.String(), b.String()
}

func TestOutputArrivesExactlyAndTheLogEndsWithTheContainer(t *testing.T) {
	l := newLogs(t, t.TempDir(), "1")
	s := openShim(t, l, "uid", "c", "id1")
	s.print(t, "hello\nprompt> ")
	if _, err := io.WriteString(s.stderr, "trouble\n"); err != nil {
		t.Fatal(err)
	}
	s.close()
	out, errOut := followed(t, l.Path("uid", "c", 0), corev1.PodLogOptions{})
	if out != "hello\nprompt> " || errOut != "trouble\n" {
		t.Fatalf("read %q and %q", out, errOut)
	}
	l.Close("id1")
	if _, err := os.Stat(filepath.Join(fifoDir(l.cfg.RunDir), "id1")); !os.IsNotExist(err) {
		t.Fatalf("FIFOs after the end: %v", err)
	}
}

func TestCloseWritesWhatTheFIFOsHold(t *testing.T) {
	l := newLogs(t, t.TempDir(), "1")
	s := openShim(t, l, "uid", "c", "id1")
	text := strings.Repeat("0123456789abcde\n", 3000)
	s.print(t, text)
	l.Close("id1") // the shim still has the FIFOs open
	if out, _ := followed(t, l.Path("uid", "c", 0), corev1.PodLogOptions{}); out != text {
		t.Fatalf("read %d bytes of %d", len(out), len(text))
	}
	l.Close("id1")
	l.Close("never-opened")
}

func TestAPromptWithoutNewlineIsSeenAtOnce(t *testing.T) {
	l := newLogs(t, t.TempDir(), "1")
	s := openShim(t, l, "uid", "c", "id1")
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	seen, show := io.Pipe()
	go func() {
		show.CloseWithError(Read(ctx, l.Path("uid", "c", 0), corev1.PodLogOptions{Follow: true}, show, show))
	}()
	s.print(t, "name? ")
	buf := make([]byte, 6)
	if _, err := io.ReadFull(seen, buf); err != nil || string(buf) != "name? " {
		t.Fatalf("read %q, %v", buf, err)
	}
	s.print(t, "thanks\n")
	s.close()
	if rest, err := io.ReadAll(seen); err != nil || string(rest) != "thanks\n" {
		t.Fatalf("then %q, %v", rest, err)
	}
}

// The writer is killed again and again while a container writes numbered lines. The shim keeps the FIFOs, so all that may be
// missing is, per kill, one read; what is there is in order and whole.
func TestKilledWriterLosesAtMostOneReadAndNeverOrder(t *testing.T) {
	l := newLogs(t, t.TempDir(), "1")
	s := openShim(t, l, "uid", "c", "id1")
	const lines, kills = 40000, 5
	// Each number twice: the start of one line and the end of a later one, with what was between them lost, are seen to be that,
	// or are to the letter the later line.
	text := func(n int) string { return fmt.Sprintf("%05d %05d\n", n, n) }
	written := make(chan error, 1)
	go func() {
		for i := range lines {
			if _, err := io.WriteString(s.stdout, text(i)); err != nil {
				written <- err
				return
			}
			if i%(lines/(kills+1)) == lines/(kills+1)-1 && i < lines-lines/(kills+1) {
				if err := unix.Kill(l.writerPID(t), unix.SIGKILL); err != nil {
					written <- err
					return
				}
			}
		}
		written <- nil
	}()
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	s.close()
	l.Close("id1")
	out, _ := followed(t, l.Path("uid", "c", 0), corev1.PodLogOptions{})
	previous, count, broken := -1, 0, 0
	lost := lines * len(text(0)) // bytes
	for line := range strings.Lines(out) {
		var n int
		if _, err := fmt.Sscanf(line, "%d", &n); err != nil || line != text(n) {
			broken++ // the two ends of a line whose middle was lost
			continue
		}
		if n <= previous {
			t.Fatalf("line %d came after line %d", n, previous)
		}
		previous = n
		count++
		lost -= len(line)
	}
	// The ends of broken lines are not counted as kept: two lines a kill.
	if most := kills * (readSize + 2*len(text(0))); lost > most {
		t.Fatalf("%d bytes lost in %d kills, more than a read each (%d)", lost, kills, most)
	}
	if broken > 2*kills {
		t.Fatalf("%d broken lines in %d kills", broken, kills)
	}
	t.Logf("%d of %d lines kept over %d kills", count, lines, kills)
}

func TestWriterWithNothingInFlightLosesNothingWhenKilled(t *testing.T) {
	l := newLogs(t, t.TempDir(), "1")
	s := openShim(t, l, "uid", "c", "id1")
	s.print(t, "before\n")
	waitFor(t, l.Path("uid", "c", 0), "before\n")
	pid := l.writerPID(t)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.print(t, "meanwhile\n")
	waitFor(t, l.Path("uid", "c", 0), "before\nmeanwhile\n")
	if now := l.writerPID(t); now == pid {
		t.Fatalf("writer %d still answers", pid)
	}
}

// waitFor follows a log until it holds the text.
func waitFor(t *testing.T, path, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	limit := int64(len(want))
	var out bytes.Buffer
	if err := Read(ctx, path, corev1.PodLogOptions{Follow: true, LimitBytes: &limit}, &out, io.Discard); err != nil || out.String() != want {
		t.Fatalf("read %q, %v; want %q", out.String(), err, want)
	}
}

func TestNextAgentTakesTheWriterOverAndReplacesAnOldOne(t *testing.T) {
	dir := t.TempDir()
	first, stop := startLogs(t, dir, "1")
	s := openShim(t, first, "uid", "c", "id1")
	pid := first.writerPID(t)
	stop()
	same, stop := startLogs(t, dir, "1")
	if got := same.writerPID(t); got != pid {
		t.Fatalf("writer is %d after a restart of the agent, was %d", got, pid)
	}
	stop()
	newer := newLogs(t, t.TempDir(), "1") // another node's does not interfere
	if got := newer.writerPID(t); got == pid {
		t.Fatal("two nodes share a writer")
	}
	s.print(t, "old\n")
	waitFor(t, first.Path("uid", "c", 0), "old\n")
	upgraded := newLogs(t, dir, "2")
	s.print(t, "new\n")
	s.close()
	if got := upgraded.writerPID(t); got == pid {
		t.Fatal("a writer of the old version was kept")
	}
	if out, _ := followed(t, upgraded.Path("uid", "c", 0), corev1.PodLogOptions{}); out != "old\nnew\n" {
		t.Fatalf("read %q", out)
	}
}

func TestFullDiskDropsOutputAndGoesOn(t *testing.T) {
	dir := t.TempDir()
	disk := filepath.Join(dir, "state")
	if err := os.MkdirAll(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatalf("mount (the tests need root): %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	l := newLogs(t, dir, "1")
	s := openShim(t, l, "uid", "c", "id1")
	s.print(t, strings.Repeat(strings.Repeat("x", 1000)+"\n", 1000)) // would block if the writer stopped reading
	s.close()
	l.Close("id1")
	if out, _ := followed(t, l.Path("uid", "c", 0), corev1.PodLogOptions{}); len(out) == 0 || len(out) > 64<<10 {
		t.Fatalf("%d bytes kept on a disk of 64k", len(out))
	}
}

func TestRetainRemovesWhatADeadAgentLeft(t *testing.T) {
	l := newLogs(t, t.TempDir(), "1")
	kept := openShim(t, l, "pod", "kept", "kept-id")
	defer kept.close()
	if _, _, err := l.Open("pod", "lost", 0, "lost-id", false); err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(l.cfg.RunDir, hiddenPrefix+"half-id")
	if err := os.Mkdir(half, 0o700); err != nil {
		t.Fatal(err)
	}
	l.Retain(func(id string) bool { return id == "kept-id" })
	for _, gone := range []string{half, filepath.Join(fifoDir(l.cfg.RunDir), "lost-id")} {
		if _, err := os.Stat(gone); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", gone, err)
		}
	}
	kept.print(t, "still read\n")
	waitFor(t, l.Path("pod", "kept", 0), "still read")
}

func TestOnlyOneWriterServesAFolder(t *testing.T) {
	dir := t.TempDir()
	l := newLogs(t, dir, "1")
	second := exec.Command(os.Args[0])
	second.Env = append(os.Environ(), "SKEP_TEST_LOG_WRITER="+l.cfg.RunDir)
	out, err := second.CombinedOutput()
	if err == nil || !strings.Contains(string(out), ErrRunning.Error()) {
		t.Fatalf("a second writer: %v, %s", err, out)
	}
}

func TestNamesCannotLeaveTheFolder(t *testing.T) {
	l := newLogs(t, t.TempDir(), "1")
	for _, id := range []string{"", "..", "../x", "a/b", ".hidden"} {
		if _, _, err := l.Open("uid", "c", 0, id, false); err == nil {
			t.Errorf("opened container %q", id)
		}
		if _, _, err := l.Open(id, "c", 0, "ok", false); err == nil {
			t.Errorf("opened pod %q", id)
		}
	}
}
