package apiserver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	internalscheme "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxBody is the largest request body: Kubernetes' limit, above the 1.5 MiB that etcd takes by default.
const maxBody = 3 << 20

// receivedBody is a body that has been read whole: the request's Body, once it has been admitted.
type receivedBody struct {
	io.Reader
	data []byte
}

func (receivedBody) Close() error { return nil }

// receive reads the body of a request before the request gets a seat. Its memory is counted for the user from the first byte on, until
// release.
func (s *Server) receive(c *call, class class) (body []byte, release func(), err error) {
	nothing := func() {}
	if c.Body == nil || c.Body == http.NoBody || c.Method == http.MethodGet || c.Method == http.MethodHead {
		return nil, nothing, nil
	}
	if encoding := c.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return nil, nothing, statusError(http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType,
			fmt.Sprintf("the body of the request has the content encoding %.40q, but bodies are accepted without encoding only", encoding))
	}
	if c.ContentLength > maxBody {
		return nil, nothing, errBodyTooLarge()
	}
	held := 0
	release = func() { class.level.Release(class.user, held) }
	hold := func(n int) bool {
		ok := class.level.Hold(class.user, n)
		if ok {
			held += n
		}
		return ok
	}
	if body, err = readWhole(c.Body, int(c.ContentLength), hold); err == nil {
		err = checkShape(c.Header.Get("Content-Type"), body)
	}
	if err != nil {
		release()
		return nil, nothing, err
	}
	c.Request.Body = receivedBody{bytes.NewReader(body), body}
	return body, release, nil
}

// readWhole reads from up to its end. It asks hold for memory before it allocates it, and allocates as bytes arrive: an announced length is
// not trusted.
func readWhole(from io.Reader, length int, hold func(int) bool) ([]byte, error) {
	const first, longest = 512, 64 << 10
	size := first
	if length >= 0 {
		size = min(length+1, longest) // one more than the bytes, to see the end
	}
	if !hold(bodyOverhead + size) {
		return nil, tooManyRequests()
	}
	body := make([]byte, 0, size)
	for {
		if len(body) > maxBody {
			return nil, errBodyTooLarge()
		}
		if len(body) == cap(body) {
			grown := min(2*cap(body), maxBody+1)
			if !hold(grown - cap(body)) {
				return nil, tooManyRequests()
			}
			body = append(make([]byte, 0, grown), body...)
		}
		n, err := from.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case errors.Is(err, io.EOF):
			if len(body) > maxBody {
				return nil, errBodyTooLarge()
			}
			return body, nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, statusError(http.StatusRequestTimeout, metav1.StatusReasonTimeout, "the body of the request did not come in time")
		case err != nil:
			return nil, apierrors.NewBadRequest(fmt.Sprintf("the body of the request could not be read: %v", err))
		}
	}
}

func errBodyTooLarge() error {
	return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", maxBody))
}

// readBody returns the body of a request that has been admitted.
func readBody(r *http.Request) ([]byte, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	body, ok := r.Body.(receivedBody)
	if !ok {
		return nil, apierrors.NewInternalError(errors.New("the body of the request has not been received"))
	}
	return body.data, nil
}

// inputFormat picks how a body is read. A body without a content type is JSON.
func inputFormat(contentType string) (*format, error) {
	if contentType == "" {
		return jsonFormat, nil
	}
	var accepted []string
	mediaType, _, err := mime.ParseMediaType(contentType)
	for _, f := range formats {
		if err == nil && f.mediaType == mediaType {
			return f, nil
		}
		accepted = append(accepted, f.mediaType)
	}
	return nil, unsupportedMediaType(accepted)
}

func unsupportedMediaType(accepted []string) error {
	return statusError(http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType,
		"the body of the request was in an unknown format - accepted media types include: "+strings.Join(accepted, ", "))
}

// decodeBody reads body as an object of kind want into a new object of into's type. Fields that the type does not have, or
// that are given twice, are warned of, refused or left out as validation says.
func decodeBody(w http.ResponseWriter, contentType string, body []byte, want schema.GroupVersionKind, into runtime.Object, validation string) error {
	f, err := inputFormat(contentType)
	if err != nil {
		return err
	}
	decoder := f.decoder
	if validation != metav1.FieldValidationIgnore {
		decoder = f.strict
	}
	if f == protobufFormat {
		if err := checkProtobuf(body, into); err != nil {
			return err
		}
	}
	obj, gvk, err := decoder.Decode(body, &want, into)
	if err != nil {
		strict, isStrict := runtime.AsStrictDecodingError(err)
		if !isStrict || obj == nil || validation == metav1.FieldValidationStrict {
			return decodeError(err, want.Kind, gvk, body)
		}
		warnAll(w, errorTexts(strict.Errors()))
	}
	if gvk.GroupVersion() != want.GroupVersion() {
		return apierrors.NewBadRequest(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)",
			gvk.GroupVersion(), want.GroupVersion()))
	}
	if _, unstructured := obj.(runtime.Unstructured); unstructured && gvk.Kind != want.Kind {
		return apierrors.NewInvalid(want.GroupKind(), "", field.ErrorList{field.Invalid(field.NewPath("kind"), gvk.Kind, "must be "+want.Kind)})
	}
	if reflect.TypeOf(obj) != reflect.TypeOf(into) {
		return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s", gvk.Kind, gvk.Version, want.Kind))
	}
	if obj != into {
		reflect.ValueOf(into).Elem().Set(reflect.ValueOf(obj).Elem())
	}
	into.GetObjectKind().SetGroupVersionKind(want)
	return nil
}

func decodeError(err error, wantKind string, gvk *schema.GroupVersionKind, body []byte) error {
	text := truncated(err.Error(), maxValueShown)
	if gvk != nil && gvk.Kind != "" {
		return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %s",
			truncated(gvk.Kind, maxWarning), truncated(gvk.Version, maxWarning), wantKind, text))
	}
	start := "<empty>"
	if len(body) > 30 {
		start = string(body[:30]) + " ..."
	} else if len(body) > 0 {
		start = string(body)
	}
	return apierrors.NewBadRequest(fmt.Sprintf("the object provided is unrecognized (must be of type %s): %s (%s)", wantKind, text, start))
}

// decodeOptions reads the options of a verb from the query.
func decodeOptions(query url.Values, into runtime.Object) error {
	if err := internalscheme.ParameterCodec.DecodeParameters(query, metav1.SchemeGroupVersion, into); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	return nil
}

// Bounds of warnings, as Kubernetes has them: runes of all together, and of each once all together were too many.
const (
	maxWarnings = 4 << 10
	maxWarning  = 256
)

// warn adds a warning that kubectl and client-go show to the person who sent the request.
func warn(w http.ResponseWriter, text string) { warnAll(w, []string{text}) }

// warnAll adds warnings, as many as a client's HTTP library takes: what a body has too much of must not break the answer.
func warnAll(w http.ResponseWriter, texts []string) {
	room := maxWarnings
	for _, header := range w.Header()["Warning"] {
		room -= len(header)
	}
	for _, text := range texts {
		if len(text) > room || len(text) > maxWarning {
			text = truncated(text, maxWarning)
		}
		if room -= len(text); room < 0 {
			return
		}
		if header, err := utilnet.NewWarningHeader(299, "-", text); err == nil {
			w.Header().Add("Warning", header)
		}
	}
}

// warnings are those of admission plugins, each returned once even if a change is tried several times.
type warnings struct {
	w     http.ResponseWriter
	given []string
}

// AddWarning is for upstream's warning.AddWarning.
func (r *warnings) AddWarning(_, text string) {
	if !slices.Contains(r.given, text) {
		r.given = append(r.given, text)
		warn(r.w, text)
	}
}

// truncated is text with at most limit bytes of it, cut between characters.
func truncated(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "") + "..."
}

func errorTexts(errs []error) []string {
	texts := make([]string, len(errs))
	for i, err := range errs {
		texts[i] = err.Error()
	}
	return texts
}

func fieldValidation(directive string) string {
	if directive == "" {
		return metav1.FieldValidationWarn
	}
	return directive
}
