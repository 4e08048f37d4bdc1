package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"github.com/skep-io/skep/agent/pod"
	"github.com/skep-io/skep/agent/runtime"
)

// idleTimeout ends idle streams, creationTimeout those that a client does not open completely. lookEvery is how often it is
// checked whether the client has left, where no reader of its frames notices.
const (
	idleTimeout     = 4 * time.Hour
	creationTimeout = 30 * time.Second
	lookEvery       = 5 * time.Second
)

// streamOptions reads which streams are wanted, by kubelet's names or the API's.
func streamOptions(r *http.Request) (*remotecommand.Options, error) {
	is := func(names ...string) bool {
		for _, name := range names {
			if v := r.URL.Query().Get(name); v == "1" || v == "true" {
				return true
			}
		}
		return false
	}
	o := &remotecommand.Options{
		Stdin: is("input", "stdin"), Stdout: is("output", "stdout"), Stderr: is("error", "stderr"), TTY: is("tty"),
	}
	if o.TTY {
		o.Stderr = false // a terminal has one output
	}
	if !o.Stdin && !o.Stdout && !o.Stderr {
		return nil, &requestError{"you must specify at least 1 of stdin, stdout, stderr"}
	}
	return o, nil
}

func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	options, err := streamOptions(r)
	if err != nil {
		failStream(w, r, err)
		return
	}
	command := r.URL.Query()["command"]
	if len(command) == 0 {
		failStream(w, r, &requestError{"you must specify at least one command for the container"})
		return
	}
	c, err := s.findRunning(r)
	if err != nil {
		failStream(w, r, err)
		return
	}
	s.streams.Serve(w, r, func(w http.ResponseWriter, r *http.Request) {
		remotecommand.ServeExec(w, r, &executor{s.cfg.Runtime}, c.PodName, c.PodUID, c.ID, command, options,
			idleTimeout, s.creationTimeout, remotecommand.SupportedStreamingProtocols)
	})
}

// findRunning finds the container of a request, which must have a process to talk to.
func (s *Server) findRunning(r *http.Request) (runtime.Container, error) {
	c, err := s.find(r)
	switch {
	case err != nil:
	case c.State == runtime.Exited:
		err = &requestError{fmt.Sprintf("container %q in pod %q is not running: it ended with exit code %d (%s)", c.Name, c.PodName, c.ExitCode, c.Reason)}
	case c.State != runtime.Running:
		err = &requestError{fmt.Sprintf("container %q in pod %q is not running yet", c.Name, c.PodName)}
	}
	return c, err
}

type executor struct{ runtime Runtime }

// ExecInContainer implements remotecommand.Executor; container is an ID.
func (e *executor) ExecInContainer(ctx context.Context, _, _, container string, command []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	resizing, cancel := context.WithCancel(ctx)
	defer cancel()
	o := runtime.ExecOptions{Stdin: in, TTY: tty, Resize: sizes(resizing, resize)}
	if out != nil {
		o.Stdout = out
	}
	if errOut != nil {
		o.Stderr = errOut
	}
	code, err := e.runtime.Exec(ctx, container, command, o)
	abortWithoutClient(ctx)
	if err != nil {
		return err
	}
	if code != 0 {
		return utilexec.CodeExitError{Code: code, Err: fmt.Errorf("command terminated with exit code %d", code)}
	}
	return nil
}

// abortWithoutClient ends the handler of a stream whose client has left. The library would write the command's result to the
// client, and wait for ever if the client's bad frame came before the answer that opens a stream was sent.
func abortWithoutClient(ctx context.Context) {
	if ctx.Err() != nil {
		panic(http.ErrAbortHandler)
	}
}

// sizes passes terminal sizes on. Its channel is never closed: a closed one would look like endless sizes of zero.
func sizes(ctx context.Context, from <-chan remotecommand.TerminalSize) <-chan runtime.Size {
	if from == nil {
		return nil
	}
	to := make(chan runtime.Size)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case size, ok := <-from:
				if !ok {
					return
				}
				select {
				case to <- runtime.Size{Width: size.Width, Height: size.Height}:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return to
}

func (s *Server) portForward(w http.ResponseWriter, r *http.Request) {
	options, err := portforward.NewV4Options(r)
	if err != nil {
		failStream(w, r, &requestError{err.Error()})
		return
	}
	netns, uid, err := s.networkOf(r.PathValue("namespace"), r.PathValue("pod"))
	if err != nil {
		failStream(w, r, err)
		return
	}
	s.streams.Serve(w, r, func(w http.ResponseWriter, r *http.Request) {
		// Data that the client sent before it left still reaches the pod, whose time to answer is bounded.
		ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
		context.AfterFunc(r.Context(), func() { time.AfterFunc(s.creationTimeout, cancel) })
		portforward.ServePortForward(w, r, &forwarder{ctx, netns, s.forwards}, r.PathValue("pod"), uid, options,
			idleTimeout, s.creationTimeout, portforward.SupportedProtocols)
	})
}

// networkOf is the path of the pinned network namespace of a running pod; empty if that is the node's.
func (s *Server) networkOf(namespace, name string) (netns, uid string, err error) {
	_, p, err := s.cfg.Pods.Find(namespace, name, "")
	if p == nil {
		return "", "", err
	}
	uid = string(p.UID)
	for _, c := range s.cfg.Runtime.Containers() {
		switch {
		case c.PodUID != uid || c.State != runtime.Running:
		case p.Spec.HostNetwork:
			return "", uid, nil
		default:
			return s.cfg.Runtime.NetNamespace(uid), uid, nil
		}
	}
	return "", "", &requestError{fmt.Sprintf("pod %q has no running container to forward to", name)}
}

type forwarder struct {
	ctx   context.Context // ends a while after the client has left; the library's own does not
	netns string
	// open holds a value for each connection to a port, of all clients together.
	open chan struct{}
}

// PortForward implements portforward.PortForwarder.
func (f *forwarder) PortForward(_ context.Context, name, _ string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	select {
	case f.open <- struct{}{}:
		defer func() { <-f.open }()
	default:
		return fmt.Errorf("connect to port %d in pod %s: the node has %d connections to forwarded ports open already", port, name, cap(f.open))
	}
	conn, err := dialLoopback(f.ctx, f.netns, port)
	if err != nil {
		return fmt.Errorf("connect to port %d in pod %s: %w", port, name, err)
	}
	defer conn.Close()
	defer context.AfterFunc(f.ctx, func() { conn.Close() })()
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, stream)
		// The client has sent everything; the pod may still have to answer.
		sent <- errors.Join(err, conn.CloseWrite())
	}()
	if _, err = io.Copy(stream, conn); err != nil {
		return fmt.Errorf("forward from port %d in pod %s: %w", port, name, err)
	}
	return nil
}

var _ Pods = (*pod.Pods)(nil)
