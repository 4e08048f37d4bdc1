package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/remotecommand"

	"github.com/skep-io/skep/agent/runtime"
)

func TestAttachShowsOutputUntilTheEnd(t *testing.T) {
	f := newFixture(t)
	f.load()
	f.run(0, false, "i=0; while [ $i -lt 20 ]; do echo tick $i; i=$((i+1)); sleep 0.1; done")
	var out bytes.Buffer
	if err := f.stream("websocket", "/attach/default/pod/main", url.Values{"output": {"1"}}, remotecommand.StreamOptions{Stdout: &out}); err != nil || !strings.HasSuffix(out.String(), "tick 18\ntick 19\n") {
		t.Errorf("attached: %v, %q", err, out.String())
	}
}

// client is an attached client, with input and output.
type client struct {
	t      *testing.T
	in     *io.PipeWriter
	screen *io.PipeReader
	window windowSizes
	leave  func()
	done   chan error
}

func (f *fixture) attach(tty bool) *client {
	f.t.Helper()
	query := url.Values{"input": {"1"}, "output": {"1"}}
	if tty {
		query.Set("tty", "1")
	} else {
		query.Set("error", "1")
	}
	u, err := url.Parse(f.url + "/attach/default/pod/main?" + query.Encode())
	if err != nil {
		f.t.Fatal(err)
	}
	executor, err := remotecommand.NewSPDYExecutor(f.apiserver(), "POST", u)
	if err != nil {
		f.t.Fatal(err)
	}
	c := &client{t: f.t, window: make(windowSizes, 1), done: make(chan error, 1)}
	ctx, leave := context.WithTimeout(context.Background(), time.Minute)
	c.leave = leave
	stdin, in := io.Pipe()
	screen, shown := io.Pipe()
	c.in, c.screen = in, screen
	options := remotecommand.StreamOptions{Stdin: stdin, Stdout: shown, Tty: tty}
	if tty {
		options.TerminalSizeQueue = c.window
	} else {
		options.Stderr = shown
	}
	go func() {
		err := executor.StreamWithContext(ctx, options)
		shown.CloseWithError(io.EOF)
		in.Close()
		c.done <- err
	}()
	f.t.Cleanup(func() { leave(); close(c.window) })
	return c
}

func (c *client) types(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c.in, text); err != nil {
		c.t.Fatal(err)
	}
}

// sees reads until the text has appeared.
func (c *client) sees(text string) string {
	c.t.Helper()
	var screen strings.Builder
	buf := make([]byte, 1024)
	for !strings.Contains(screen.String(), text) {
		n, err := c.screen.Read(buf)
		screen.Write(buf[:n])
		if err != nil {
			c.t.Fatalf("saw %q and then %v, want %q", screen.String(), err, text)
		}
	}
	return screen.String()
}

// ends waits for the end of the session and returns what was left to see.
func (c *client) ends() string {
	c.t.Helper()
	rest, err := io.ReadAll(c.screen)
	if err = errors.Join(err, <-c.done); err != nil {
		c.t.Error(err)
	}
	return string(rest)
}

// As in `echo work | kubectl run -i`: the container reads all that is piped, finds the end, and the client sees all that it
// answers.
func TestPipedInputEndsWithItsClient(t *testing.T) {
	f := newFixture(t)
	f.load()
	c := f.start(runtime.ContainerConfig{Command: []string{"sh", "-c", "cat; echo bye >&2; exit 4"}, Stdin: true, StdinOnce: true})
	piped := strings.Repeat("0123456789abcde\n", 100_000)
	var out, errOut bytes.Buffer
	err := f.stream("spdy", "/attach/default/pod/main", url.Values{"input": {"1"}, "output": {"1"}, "error": {"1"}},
		remotecommand.StreamOptions{Stdin: strings.NewReader(piped), Stdout: &out, Stderr: &errOut})
	if err != nil || out.String() != piped || errOut.String() != "bye\n" {
		t.Errorf("%v, %d bytes of output starting %.30q, stderr %q", err, out.Len(), out.String(), errOut.String())
	}
	if ended, err := f.node.WaitExit(t.Context(), c.ID); err != nil || ended.ExitCode != 4 {
		t.Errorf("ended as %+v, %v", ended, err)
	}
	if _, err := f.node.OpenStdin(c.ID); !errors.Is(err, runtime.ErrStdinClosed) {
		t.Errorf("standard input after the end: %v", err)
	}
}

// Input stays open between clients and over an agent's restart, and a client sees what is written while it is there.
func TestInputOutlivesClientsAndAgent(t *testing.T) {
	f := newFixture(t)
	f.load()
	f.start(runtime.ContainerConfig{Command: []string{"sh", "-c", "while read x; do printf \"got $x.\"; [ $x = stop ] && exit; done; echo end of input"}, Stdin: true})
	first, second := f.attach(false), f.attach(false)
	// Both attach on their own time: each proves that it is there before the other is asked to see.
	first.types("one\n")
	first.sees("got one.")
	second.types("two\n")
	second.sees("got two.")
	first.sees("got two.")
	first.leave()
	<-first.done
	second.in.Close() // ends this session, not the container's input
	second.ends()

	lost := filepath.Join(f.node.Config.RunDir, "stdin", "lost")
	if err := os.Mkdir(lost, 0o700); err != nil {
		t.Fatal(err)
	}
	f.node.Disconnect()
	f.node.Connect()
	if _, err := os.Stat(lost); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the input of a container that is gone: %v", err)
	}
	if c := f.node.Containers(); len(c) != 1 || !c[0].Stdin || c[0].StdinOnce || c[0].State != runtime.Running {
		t.Fatalf("adopted %+v", c)
	}
	third := f.attach(false)
	third.types("three\n")
	third.sees("got three.")
	third.types("stop\n")
	if rest := third.ends(); rest != "got stop." {
		t.Errorf("at the end %q", rest)
	}
}

// As in `kubectl run -it`: a shell with its prompt, echo as keys are pressed, window sizes, a session that another
// client resumes, and the end.
func TestTerminal(t *testing.T) {
	f := newFixture(t)
	f.load()
	c := f.start(runtime.ContainerConfig{Command: []string{"sh"}, Stdin: true, StdinOnce: true, TTY: true, Env: []string{"PS1=ready> "}})
	first := f.attach(true)
	first.types("\n")
	first.sees("ready> ")
	first.types("ab")
	first.sees("ab") // nothing waits for the end of the line
	first.types("\b\b")
	first.window <- &remotecommand.TerminalSize{Width: 101, Height: 33}
	for screen := ""; !strings.Contains(screen, "33 101"); { // sizes travel beside the input
		first.types("stty size; echo $((40+2)).\n")
		screen = first.sees("42.")
	}
	first.leave()
	<-first.done

	second := f.attach(true)
	second.types("echo $((50+5)).\n")
	if screen := second.sees("55."); strings.Contains(screen, "42.") {
		t.Errorf("the second client sees what the first has seen: %q", screen)
	}
	second.types("exit 3\n")
	second.ends()
	if ended, err := f.node.WaitExit(t.Context(), c.ID); err != nil || ended.ExitCode != 3 {
		t.Errorf("ended as %+v, %v", ended, err)
	}
}

// A container that does not read must not hold anybody up.
func TestInputThatNobodyReads(t *testing.T) {
	f := newFixture(t)
	f.load()
	c := f.start(runtime.ContainerConfig{Command: []string{"sh", "-c", "read x; echo here; sleep 1000"}, Stdin: true, StdinOnce: true})
	full := f.attach(false)
	full.types("go\n")
	full.sees("here\n")
	go func() { _, _ = io.Copy(full.in, neverEnding{}) }()
	stopped := make(chan error, 1)
	stdin, err := f.node.OpenStdin(c.ID)
	if err != nil {
		t.Fatal(err)
	}
	go func() { // the FIFO is full when a write waits
		for {
			if _, err := stdin.Write(make([]byte, 64<<10)); err != nil {
				stopped <- err
				return
			}
		}
	}()
	if err := f.node.Stop(context.Background(), c.ID, 0); err != nil {
		t.Fatal(err)
	}
	if err := <-full.done; err != nil {
		t.Errorf("attached to a container that ends: %v", err)
	}
	<-stopped
	stdin.Close()
}

type neverEnding struct{}

func (neverEnding) Read(p []byte) (int, error) { return len(p), nil }

func TestTypingWhereNobodyListens(t *testing.T) {
	f := newFixture(t)
	f.load()
	c := f.run(0, false, "sleep 1000")
	watcher := f.attach(false)
	watcher.sees("This container has no standard input (stdin: true in its specification): what you type goes nowhere.\r\n")
	if err := f.node.Stop(context.Background(), c.ID, 0); err != nil {
		t.Fatal(err)
	}
	if rest := watcher.ends(); rest != "" {
		t.Errorf("and then %q", rest)
	}
}
