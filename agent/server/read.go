package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/agent/logs"
	"github.com/skep-io/skep/agent/pod"
	"github.com/skep-io/skep/agent/runtime"
	skepv1 "github.com/skep-io/skep/api/v1"
)

func (s *Server) pods(w http.ResponseWriter, r *http.Request) {
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []corev1.Pod{}}
	for _, p := range s.cfg.Pods.List() {
		item := *p.Pod // a shallow copy: only the status differs
		item.Status = p.Status
		list.Items = append(list.Items, item)
	}
	writeJSON(w, r, list)
}

func (s *Server) summary(w http.ResponseWriter, r *http.Request) {
	summary, err := s.cfg.Stats.Summary(r.Context())
	if err != nil {
		fail(w, r, err)
		return
	}
	writeJSON(w, r, summary)
}

// services answers with this node's counters by service and backend.
func (s *Server) services(w http.ResponseWriter, r *http.Request) {
	report, err := s.cfg.Traffic.Read()
	if err != nil {
		fail(w, r, err)
		return
	}
	writeJSON(w, r, report)
}

// dataplane answers with the content of this node's service maps.
func (s *Server) dataplane(w http.ResponseWriter, r *http.Request) {
	tables, err := s.cfg.Traffic.Dump()
	if err != nil {
		fail(w, r, err)
		return
	}
	writeJSON(w, r, tables)
}

func (s *Server) verify(w http.ResponseWriter, r *http.Request) {
	found, err := s.cfg.Verify(r.Context())
	if err != nil {
		fail(w, r, err)
		return
	}
	writeJSON(w, r, found)
}

// events answers with a line of JSON for each connection that failed recently; with ?follow=true it continues with
// new ones.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	follow := false
	if v := r.URL.Query().Get("follow"); v != "" {
		var err error
		if follow, err = strconv.ParseBool(v); err != nil {
			fail(w, r, &requestError{fmt.Sprintf("follow: %q is not true or false", v)})
			return
		}
	}
	out := &flusher{w: w, control: http.NewResponseController(w)}
	w.Header().Set("Content-Type", "application/json")
	_ = out.control.Flush() // the client learns at once that it is connected
	encoder := json.NewEncoder(out)
	// It fails only if the client has left.
	_ = s.cfg.Traffic.Events(r.Context(), follow, func(e skepv1.Event) error { return encoder.Encode(e) })
}

func writeJSON(w http.ResponseWriter, r *http.Request, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		fail(w, r, fmt.Errorf("encode answer: %w", err))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(data) // a client that has left needs no answer
}

// sealedWithin is how long after its end a container's log may still grow.
const sealedWithin = 5 * time.Second

func (s *Server) containerLogs(w http.ResponseWriter, r *http.Request) {
	opts, err := logOptions(r.URL.Query())
	if err != nil {
		fail(w, r, err)
		return
	}
	c, err := s.find(r)
	if err != nil {
		fail(w, r, err)
		return
	}
	path := c.LogPath
	if opts.Previous {
		path = filepath.Join(filepath.Dir(c.LogPath), strconv.Itoa(c.Attempt-1)+".log")
		opts.Follow = false
	}
	if c.State == runtime.Exited && time.Since(c.FinishedAt) > sealedWithin {
		opts.Follow = false // no more output comes, even if the log could not be sealed
	}
	out := &flusher{w: w, control: http.NewResponseController(w)}
	w.Header().Set("Content-Type", "text/plain")
	if opts.Follow {
		_ = out.control.Flush() // the client learns at once that it is connected
	}
	err = logs.Read(r.Context(), path, opts, out, out)
	switch {
	case err == nil || out.wrote:
	case errors.Is(err, fs.ErrNotExist) && opts.Previous:
		fail(w, r, &requestError{fmt.Sprintf("previous terminated container %q in pod %q not found", c.Name, c.PodName)})
	case errors.Is(err, fs.ErrNotExist):
		fail(w, r, &requestError{fmt.Sprintf("the log of container %q in pod %q no longer exists", c.Name, c.PodName)})
	default:
		fail(w, r, err)
	}
}

// logOptions reads the API's options for logs.
func logOptions(query url.Values) (opts corev1.PodLogOptions, err error) {
	flag := func(name string, into *bool) {
		if v := query.Get(name); v != "" && err == nil {
			if *into, err = strconv.ParseBool(v); err != nil {
				err = &requestError{fmt.Sprintf("%s: %q is not true or false", name, v)}
			}
		}
	}
	number := func(name string, least int64, into **int64) {
		if v := query.Get(name); v != "" && err == nil {
			n, bad := strconv.ParseInt(v, 10, 64)
			if bad != nil || n < least {
				err = &requestError{fmt.Sprintf("%s: %q is not a number of at least %d", name, v, least)}
			}
			*into = &n
		}
	}
	flag("follow", &opts.Follow)
	flag("previous", &opts.Previous)
	flag("timestamps", &opts.Timestamps)
	number("tailLines", 0, &opts.TailLines)
	number("limitBytes", 1, &opts.LimitBytes)
	number("sinceSeconds", 1, &opts.SinceSeconds)
	if v := query.Get("sinceTime"); v != "" && err == nil {
		at, bad := time.Parse(time.RFC3339Nano, v)
		if bad != nil {
			err = &requestError{fmt.Sprintf("sinceTime: %q is not an RFC 3339 time", v)}
		}
		opts.SinceTime = &metav1.Time{Time: at}
	}
	if v := query.Get("stream"); v != "" {
		opts.Stream = &v
	}
	return opts, err
}

// flusher sends each write at once.
type flusher struct {
	w       io.Writer
	control *http.ResponseController
	wrote   bool
}

func (f *flusher) Write(p []byte) (int, error) {
	f.wrote = true
	n, err := f.w.Write(p)
	if err == nil {
		err = f.control.Flush()
	}
	return n, err
}

// find returns the container that a path names. One that has not started is the client's error, in kubelet's words.
func (s *Server) find(r *http.Request) (runtime.Container, error) {
	namespace, name, container := r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container")
	c, p, err := s.cfg.Pods.Find(namespace, name, container)
	if err == nil || !errors.Is(err, pod.ErrNotFound) {
		return c, err
	}
	if p == nil {
		// The agent has just started and has no pods from the API server yet: the containers' labels name their
		// pods.
		return s.adopted(namespace, name, container, err)
	}
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for i := range list {
			if list[i].Name == container && list[i].State.Waiting != nil {
				return c, &requestError{fmt.Sprintf("container %q in pod %q is waiting to start: %s", container, name, list[i].State.Waiting.Reason)}
			}
		}
	}
	for i := range p.Spec.Containers {
		if p.Spec.Containers[i].Name == container {
			return c, &requestError{fmt.Sprintf("container %q in pod %q is waiting to start: ContainerCreating", container, name)}
		}
	}
	return c, err
}

// adopted returns the newest attempt of a container; missing if there is none.
func (s *Server) adopted(namespace, name, container string, missing error) (newest runtime.Container, err error) {
	for _, c := range s.cfg.Runtime.Containers() {
		if c.PodNamespace == namespace && c.PodName == name && c.Name == container && c.State != runtime.Created &&
			(newest.ID == "" || c.CreatedAt.After(newest.CreatedAt)) {
			newest = c
		}
	}
	if newest.ID == "" {
		return newest, missing
	}
	return newest, nil
}

// loadImages reads a tar of images: a docker archive or an OCI layout.
func (s *Server) loadImages(w http.ResponseWriter, r *http.Request) {
	const maxArchive = 64 << 30
	archive := &patientReader{http.MaxBytesReader(w, r.Body, maxArchive), http.NewResponseController(w), archiveWait}
	names, err := s.cfg.Runtime.Import(r.Context(), archive)
	if err != nil {
		fail(w, r, &requestError{fmt.Sprintf("load images: %v", err)})
		return
	}
	writeJSON(w, r, map[string][]string{"images": names})
}

// archiveWait is how long a client may take for each part of an archive.
const archiveWait = time.Minute

// patientReader reads a body that may take long, but must not stall.
type patientReader struct {
	io.Reader
	control *http.ResponseController
	wait    time.Duration
}

func (r *patientReader) Read(p []byte) (int, error) {
	if err := r.control.SetReadDeadline(time.Now().Add(r.wait)); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}
