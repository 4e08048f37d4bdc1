package apiserver

import (
	"compress/gzip"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// gzipThreshold is the size from which an answer is compressed for a client that takes gzip: below it, one network
// round trip carries the whole answer either way.
const gzipThreshold = 128 << 10

// writeObject answers with a whole object.
func writeObject(w http.ResponseWriter, r *http.Request, o output, code int, obj runtime.Object) {
	f := o.format
	// An object of a kind without a protobuf form is sent as JSON, with that content type.
	if _, ok := obj.(interface{ Marshal() ([]byte, error) }); f == protobufFormat && !ok {
		f = jsonFormat
	}
	encoder := *f
	if o.pretty {
		encoder.encoder = f.pretty
	}
	data, err := encoder.encode(obj)
	if err != nil {
		slog.Error("Answer could not be encoded", "path", r.URL.Path, "err", err)
		if _, isStatus := obj.(*metav1.Status); isStatus {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		writeError(w, r, apierrors.NewInternalError(err))
		return
	}
	writeBytes(w, r, f.mediaType, code, data)
}

// writeBytes answers with chunks that together make up a document.
func writeBytes(w http.ResponseWriter, r *http.Request, mediaType string, code int, chunks ...[]byte) {
	size := 0
	for _, chunk := range chunks {
		size += len(chunk)
	}
	header := w.Header()
	header.Set("Content-Type", mediaType)
	header.Set("Cache-Control", "no-cache, private")
	if size >= gzipThreshold && r.Method == http.MethodGet && acceptsGzip(r) {
		header.Set("Content-Encoding", "gzip")
		header.Add("Vary", "Accept-Encoding")
		w.WriteHeader(code)
		writer, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
		if err != nil {
			panic(err) // the level is a constant
		}
		for _, chunk := range chunks {
			if _, err := writer.Write(chunk); err != nil {
				return
			}
		}
		_ = writer.Close() // fails only if the client has disconnected
		return
	}
	header.Set("Content-Length", strconv.Itoa(size))
	w.WriteHeader(code)
	if r.Method == http.MethodHead {
		return
	}
	for _, chunk := range chunks {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

func acceptsGzip(r *http.Request) bool {
	for _, header := range r.Header.Values("Accept-Encoding") {
		for part := range strings.SplitSeq(header, ",") {
			name, params, _ := strings.Cut(strings.TrimSpace(part), ";")
			if name != "gzip" {
				continue
			}
			quality, given := strings.CutPrefix(strings.ReplaceAll(params, " ", ""), "q=")
			weight, err := strconv.ParseFloat(quality, 64)
			return !given || err != nil || weight > 0
		}
	}
	return false
}

// writeError answers with the Status of an error, in the format that the client accepts, else in JSON.
func writeError(w http.ResponseWriter, r *http.Request, err error) {
	status := statusOf(err)
	if status.Details != nil && status.Details.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(status.Details.RetryAfterSeconds)))
	}
	if status.Code >= http.StatusInternalServerError && r.Context().Err() == nil {
		slog.Warn("Request failed", "method", r.Method, "path", r.URL.Path, "code", status.Code, "err", err)
	}
	o, negotiateErr := negotiate(r, r.URL.Query(), false, false)
	if negotiateErr != nil {
		o = output{format: jsonFormat}
	}
	writeObject(w, r, o, int(status.Code), status)
}

// statusOf returns the Status that a client sees for an error.
func statusOf(err error) *metav1.Status {
	var status metav1.Status
	var api apierrors.APIStatus
	switch {
	case errors.As(err, &api):
		status = api.Status()
	case errors.Is(err, context.DeadlineExceeded):
		status = apierrors.NewTimeoutError("the request did not end in time", 1).Status()
	default:
		status = apierrors.NewInternalError(err).Status()
	}
	status.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	if status.Status == "" {
		status.Status = metav1.StatusFailure
	}
	if status.Code == 0 {
		status.Code = http.StatusInternalServerError
		if status.Status == metav1.StatusSuccess {
			status.Code = http.StatusOK
		}
	}
	// What a client sent is repeated in part only: a body may have a hundred thousand faults.
	status.Message = truncated(status.Message, maxMessage)
	if d := status.Details; d != nil {
		details := *d
		details.Name = truncated(d.Name, maxValueShown)
		details.Causes = nil
		for i := range min(len(d.Causes), maxCauses) {
			cause := d.Causes[i]
			cause.Message, cause.Field = truncated(cause.Message, maxValueShown/8), truncated(cause.Field, maxWarning)
			details.Causes = append(details.Causes, cause)
		}
		status.Details = &details
	}
	return &status
}

// Bounds of an error: bytes of its message, and how many causes.
const (
	maxMessage = 16 << 10
	maxCauses  = 50
)

// asStatus says whether an error carries a Status of its own.
func asStatus(err error, status *apierrors.APIStatus) bool { return errors.As(err, status) }
