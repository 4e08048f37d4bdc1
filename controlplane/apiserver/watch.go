package apiserver

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/watchcache"
)

// defaultWriteTimeout is how long a watch waits for its client to read what was written.
const defaultWriteTimeout = 30 * time.Second

// minWatch is the shortest time after which a watch without a timeout of its own ends, so that clients spread over the
// servers again.
const minWatch = 30 * time.Minute

// watchList answers with events until the client leaves, the time is up or the server ends.
func (s *Server) watchList(w http.ResponseWriter, c *call) error {
	o, err := c.negotiate(true)
	if err != nil {
		return err
	}
	options, err := listOptions(c)
	if err != nil {
		return err
	}
	timeout := minWatch + time.Duration(rand.Int64N(int64(minWatch)))
	if options.TimeoutSeconds != nil && *options.TimeoutSeconds > 0 {
		timeout = time.Duration(*options.TimeoutSeconds) * time.Second
	}
	ctx, cancel := context.WithTimeout(c.Context(), timeout)
	defer cancel()
	// The initial events are as much work as a list, and take seats as a list does.
	leave, err := s.acquireSeats(ctx, c, s.limits.classify(c), 1)
	if err != nil {
		s.metrics.terminated(c, err)
		return err
	}
	leave = sync.OnceFunc(leave)
	defer leave()
	defer time.AfterFunc(requestTimeout, leave).Stop()
	stream := &eventStream{server: s, call: c, output: o, w: w, control: http.NewResponseController(w)}
	watcher, err := s.registry.Watch(ctx, c.kind, c.namespace, resource.WatchOptions{
		LabelSelector: options.LabelSelector, FieldSelector: options.FieldSelector,
		ResourceVersion: options.ResourceVersion, ResourceVersionMatch: options.ResourceVersionMatch,
		AllowBookmarks: options.AllowWatchBookmarks, SendInitialEvents: options.SendInitialEvents,
	})
	switch {
	case apierrors.IsResourceExpired(err) || apierrors.IsGone(err):
		// Clients get the error of an expired revision inside the stream, as from a watch that fell behind.
		stream.begin()
		stream.fail(err)
		return nil
	case err != nil:
		return err
	}
	defer watcher.Stop()
	open := s.metrics.longRunning.With(c.labels())
	open.Inc()
	defer open.Dec()
	stream.begin()
	for {
		if !watcher.Starting() {
			leave()
		}
		events, err := watcher.Next(ctx)
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, watchcache.ErrClosed) {
				stream.fail(err)
			}
			return nil
		}
		if stream.send(events) != nil {
			return nil // the client has disconnected or does not read
		}
	}
}

// eventStream writes the events of one watch.
type eventStream struct {
	server  *Server
	call    *call
	output  output
	w       http.ResponseWriter
	control *http.ResponseController
	buf     []byte
	// headed is set once the columns of a table have been sent.
	headed bool
}

// begin sends the headers at once: a client waits for them, not for the first event.
func (e *eventStream) begin() {
	mediaType := e.output.format.mediaType
	if e.output.format == protobufFormat {
		mediaType += ";stream=watch"
	}
	e.w.Header().Set("Content-Type", mediaType)
	e.w.Header().Set("Cache-Control", "no-cache, private")
	e.w.WriteHeader(http.StatusOK)
	_ = e.control.Flush()
}

// maxBuffered is about how much of a watch is buffered before it is written to the client.
const maxBuffered = 256 << 10

// send writes events and flushes them.
func (e *eventStream) send(events []watchcache.Event) error {
	e.buf = e.buf[:0]
	for i := range events {
		if err := e.append(&events[i]); err != nil {
			e.fail(err)
			return err
		}
		if len(e.buf) > maxBuffered {
			if err := e.flush(); err != nil {
				return err
			}
			e.buf = e.buf[:0]
		}
	}
	return e.flush()
}

func (e *eventStream) flush() error {
	if err := e.control.SetWriteDeadline(time.Now().Add(e.server.writeTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if _, err := e.w.Write(e.buf); err != nil {
		return err
	}
	if cap(e.buf) > 4*maxBuffered { // initial events can be many; what follows them is small
		e.buf = nil
	}
	if err := e.control.Flush(); err != nil {
		return err
	}
	// HTTP/2 resets the stream at the deadline, even if there is nothing to write.
	if err := e.control.SetWriteDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

func (e *eventStream) append(event *watchcache.Event) error {
	if event.Type != watch.Bookmark && e.output.shape == shapePlain {
		data, err := e.call.kind.Encoded(event.Object, e.output.format.mediaType, e.output.format.encodeItem)
		if err != nil {
			return err
		}
		e.frame(event.Type, data)
		return nil
	}
	obj := e.bookmark(event)
	if event.Type != watch.Bookmark {
		obj = event.Object.Value()
	}
	shaped, err := e.shape(obj)
	if err != nil {
		return err
	}
	return e.frameObject(event.Type, shaped)
}

// bookmark makes the object that carries the revision up to which a watch has delivered.
func (e *eventStream) bookmark(event *watchcache.Event) resource.Object {
	obj := e.call.kind.New()
	obj.GetObjectKind().SetGroupVersionKind(e.call.kind.GVK)
	obj.SetResourceVersion(strconv.FormatInt(event.Revision, 10))
	if event.InitialEventsEnd {
		obj.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	return obj
}

func (e *eventStream) shape(obj resource.Object) (runtime.Object, error) {
	switch e.output.shape {
	case shapeTable:
		listMeta := metav1.ListMeta{ResourceVersion: obj.GetResourceVersion()}
		t, err := e.server.table(e.call, e.output, []resource.Object{obj}, listMeta, e.headed)
		e.headed = true
		return t, err
	case shapePlain:
		return obj, nil
	}
	return e.output.metadata(obj), nil
}

// fail ends the stream with an ERROR event that holds the Status of err.
func (e *eventStream) fail(err error) {
	if errors.Is(err, watchcache.ErrSlow) || errors.Is(err, watchcache.ErrStopped) {
		return // what the client has is whole, and it can resume from there
	}
	e.buf = e.buf[:0]
	if e.frameObject(watch.Error, statusOf(err)) == nil {
		_ = e.flush() // the stream ends here, whether or not the client gets it
	}
}

// frameObject appends an event whose object is not kept in the cache's encoding.
func (e *eventStream) frameObject(event watch.EventType, obj runtime.Object) error {
	data, err := e.output.format.encodeItem(obj)
	if err != nil {
		return err
	}
	if e.output.format == protobufFormat {
		kind := obj.GetObjectKind().GroupVersionKind()
		e.buf = appendProtobufEvent(e.buf, event, protobufEnvelope(kind, len(data)), data)
		return nil
	}
	e.buf = appendJSONEvent(e.buf, event, data)
	return nil
}

// frame appends an event around the bytes of an object of the watched kind.
func (e *eventStream) frame(event watch.EventType, data []byte) {
	if e.output.format == protobufFormat {
		e.buf = appendProtobufEvent(e.buf, event, protobufEnvelope(e.call.kind.GVK, len(data)), data)
		return
	}
	e.buf = appendJSONEvent(e.buf, event, data)
}

func appendJSONEvent(buf []byte, event watch.EventType, data []byte) []byte {
	buf = append(append(append(buf, `{"type":"`...), event...), `","object":`...)
	return append(append(buf, data...), "}\n"...)
}

// appendProtobufEvent appends a WatchEvent (field 1 the type, field 2 a RawExtension whose field 1 is a whole document)
// behind its length in four bytes.
func appendProtobufEvent(buf []byte, event watch.EventType, envelope, data []byte) []byte {
	document := len(envelope) + len(data) + len(protobufTrailer)
	raw := appendHeader(nil, 1, document)
	head := appendBytes(nil, 1, []byte(event))
	head = appendHeader(head, 2, len(raw)+document)
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(head)+len(raw)+document))
	buf = append(append(buf, head...), raw...)
	buf = append(append(buf, envelope...), data...)
	return append(buf, protobufTrailer...)
}
