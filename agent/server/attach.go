package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"github.com/skep-io/skep/agent/logs"
	"github.com/skep-io/skep/agent/runtime"
)

func (s *Server) attach(w http.ResponseWriter, r *http.Request) {
	options, err := streamOptions(r)
	if err != nil {
		failStream(w, r, err)
		return
	}
	c, err := s.findRunning(r)
	if err != nil {
		failStream(w, r, err)
		return
	}
	s.streams.Serve(w, r, func(w http.ResponseWriter, r *http.Request) {
		remotecommand.ServeAttach(w, r, &attacher{s.cfg.Runtime, c, options}, c.PodName, c.PodUID, c.ID, options,
			idleTimeout, s.creationTimeout, remotecommand.SupportedStreamingProtocols)
	})
}

// closeTimeout bounds the end of a container's input.
const closeTimeout = 30 * time.Second

type attacher struct {
	runtime   Runtime
	container runtime.Container
	wanted    *remotecommand.Options // a WebSocket client has all streams, also those that it does not want
}

// AttachContainer implements remotecommand.Attacher: it connects a client to a running container until the container ends, the
// client leaves, or the client's input ends and the container's does not end with it.
//
// Output is read from the container's log as it is written, from now on (kubectl run shows earlier output): clients read at their own pace,
// and none can block the container or another client.
func (a *attacher) AttachContainer(ctx context.Context, _, _, _ string, in io.Reader, out, errOut io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize) error {
	client := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := &a.container
	if c.Terminal {
		go a.resize(ctx, sizes(ctx, resize))
	}
	begun := func() {}
	if a.wanted.Stdin {
		stdin, err := a.openStdin(out, errOut)
		if err != nil {
			return err
		}
		if stdin != nil {
			defer stdin.Close() // ends a write that the container does not read
			// Input begins once the output is followed, so that the client sees the answer to its first line.
			begun = func() {
				go func() {
					if a.send(stdin, in); !a.endsInput() {
						cancel()
					}
				}()
			}
		}
	}
	err := logs.Follow(ctx, c.LogPath, orNone(out), orNone(errOut), begun)
	abortWithoutClient(client)
	if err != nil {
		return fmt.Errorf("follow the output of container %s: %w", c.Name, err)
	}
	return nil
}

// openStdin connects to the container's input. If the container takes no input, a client that sends some gets a message, and the output.
func (a *attacher) openStdin(out, errOut io.Writer) (*os.File, error) {
	notice := ""
	if !a.container.Stdin {
		notice = "This container has no standard input (stdin: true in its specification): what you type goes nowhere.\r\n"
	} else {
		stdin, err := a.runtime.OpenStdin(a.container.ID)
		if err == nil || !errors.Is(err, runtime.ErrStdinClosed) {
			return stdin, err
		}
		notice = "This container's standard input has ended: what you type goes nowhere.\r\n"
	}
	for _, w := range []io.Writer{errOut, out} {
		if w != nil {
			_, err := io.WriteString(w, notice)
			return nil, err
		}
	}
	return nil, nil
}

// endsInput says whether the container's input ends with the client's. A terminal stays open, so that another client can
// resume the session.
func (a *attacher) endsInput() bool { return a.container.StdinOnce && !a.container.Terminal }

// send copies the client's input until the client or the container ends it.
func (a *attacher) send(stdin *os.File, in io.Reader) {
	_, err := io.Copy(stdin, in)
	if err = errors.Join(err, stdin.Close()); err != nil {
		slog.Debug("client's input ended early", "container", a.container.ID, "err", err) // the client left, or the container ended
	}
	if a.endsInput() {
		// Not with the client's context, which has ended if the client has left: the container's input must end then too.
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		if err := a.runtime.CloseStdin(ctx, a.container.ID); err != nil {
			slog.Debug("container's standard input not closed", "container", a.container.ID, "err", err) // the container has ended
		}
	}
}

func (a *attacher) resize(ctx context.Context, sizes <-chan runtime.Size) {
	for {
		select {
		case size := <-sizes:
			if err := a.runtime.Resize(ctx, a.container.ID, size); err != nil {
				slog.Debug("terminal not resized", "container", a.container.ID, "err", err) // the container has ended
			}
		case <-ctx.Done():
			return
		}
	}
}

func orNone(w io.WriteCloser) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}
