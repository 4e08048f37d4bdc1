package apiserver

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"reflect"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	internalscheme "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// maxBody is the largest request body: Kubernetes' limit, above the 1.5 MiB that etcd takes by default.
const maxBody = 3 << 20

func readBody(r *http.Request) ([]byte, error) {
	if r.Body == nil {
		return nil, nil
	}
	data, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", maxBody))
	}
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the body of the request could not be read: %v", err))
	}
	return data, nil
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
	obj, gvk, err := decoder.Decode(body, &want, into)
	if err != nil {
		strict, isStrict := runtime.AsStrictDecodingError(err)
		if !isStrict || obj == nil || validation == metav1.FieldValidationStrict {
			return decodeError(err, want.Kind, gvk, body)
		}
		warnAll(w, strict.Errors())
	}
	if gvk.GroupVersion() != want.GroupVersion() {
		return apierrors.NewBadRequest(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)",
			gvk.GroupVersion(), want.GroupVersion()))
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
	if gvk != nil && gvk.Kind != "" {
		return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", gvk.Kind, gvk.Version, wantKind, err))
	}
	start := "<empty>"
	if len(body) > 30 {
		start = string(body[:30]) + " ..."
	} else if len(body) > 0 {
		start = string(body)
	}
	return apierrors.NewBadRequest(fmt.Sprintf("the object provided is unrecognized (must be of type %s): %v (%s)", wantKind, err, start))
}

// decodeOptions reads the options of a verb from the query.
func decodeOptions(query url.Values, into runtime.Object) error {
	if err := internalscheme.ParameterCodec.DecodeParameters(query, metav1.SchemeGroupVersion, into); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	return nil
}

// warn adds a warning that kubectl and client-go show to the person who sent the request.
func warn(w http.ResponseWriter, text string) {
	if header, err := utilnet.NewWarningHeader(299, "-", text); err == nil {
		w.Header().Add("Warning", header)
	}
}

func warnAll(w http.ResponseWriter, errs []error) {
	for _, err := range errs {
		warn(w, err.Error())
	}
}

func fieldValidation(directive string) string {
	if directive == "" {
		return metav1.FieldValidationWarn
	}
	return directive
}
