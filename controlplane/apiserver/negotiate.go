package apiserver

import (
	"cmp"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// shape is a form other than its own in which a client asks for an object.
type shape string

const (
	shapePlain    shape = ""
	shapeTable    shape = "Table"
	shapeMetadata shape = "PartialObjectMetadata"
	shapeMetaList shape = "PartialObjectMetadataList"
)

// output is what a client accepts.
type output struct {
	format *format
	shape  shape
	// version is that of the shape's group meta.k8s.io.
	version string
	pretty  bool
	params  map[string]string
}

// acceptClause is one media type of an Accept header.
type acceptClause struct {
	mediaType string
	params    map[string]string
	quality   float64
}

func parseAccept(header string) []acceptClause {
	var clauses []acceptClause
	for part := range strings.SplitSeq(header, ",") {
		mediaType, params, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		clause := acceptClause{mediaType, params, 1}
		if q, err := strconv.ParseFloat(params["q"], 64); err == nil {
			clause.quality = q
		}
		if clause.quality > 0 {
			clauses = append(clauses, clause)
		}
	}
	slices.SortStableFunc(clauses, func(a, b acceptClause) int { return cmp.Compare(b.quality, a.quality) })
	return clauses
}

func (c acceptClause) matches(mediaType string) bool {
	return c.mediaType == mediaType || c.mediaType == "*/*" || c.mediaType == "application/*"
}

// textFormats are those of unstructured objects; tables and bare metadata of them have all formats.
var textFormats = formats[:2]

// negotiate picks the form of the answer of objects of the request's kind. stream says whether it is a watch.
func (c *call) negotiate(stream bool) (output, error) {
	if c.kind.Unstructured {
		return negotiateAmong(textFormats, c.Request, c.query, true, stream)
	}
	return negotiate(c.Request, c.query, true, stream)
}

// negotiate picks the form of the answer. shaped says whether tables and bare metadata exist here, stream whether the
// answer is a watch.
func negotiate(r *http.Request, query url.Values, shaped, stream bool) (output, error) {
	return negotiateAmong(formats, r, query, shaped, stream)
}

// negotiateAmong is negotiate where an object in its own shape has only the formats plain.
func negotiateAmong(plain []*format, r *http.Request, query url.Values, shaped, stream bool) (output, error) {
	pretty, _ := strconv.ParseBool(query.Get("pretty"))
	header := strings.Join(r.Header.Values("Accept"), ",")
	if header == "" {
		return output{format: jsonFormat, pretty: pretty}, nil
	}
	for _, clause := range parseAccept(header) {
		for _, f := range formats {
			if !clause.matches(f.mediaType) || (stream && !f.streams) {
				continue
			}
			if s := clause.params["stream"]; s != "" && (s != "watch" || !f.streams) {
				continue
			}
			o := output{format: f, pretty: pretty || clause.params["pretty"] == "1", params: clause.params}
			if clause.params["as"] == "" {
				if slices.Contains(plain, f) {
					return o, nil
				}
				continue
			}
			if o.transform(clause.params, shaped) {
				return o, nil
			}
		}
	}
	var accepted []string
	for _, f := range plain {
		if stream && f.streams {
			accepted = append(accepted, f.mediaType+";stream=watch")
		} else if !stream {
			accepted = append(accepted, f.mediaType)
		}
	}
	return output{format: jsonFormat}, statusError(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable,
		"only the following media types are accepted: "+strings.Join(accepted, ", "))
}

// transform sets the shape that a clause asks for, and returns whether it exists.
func (o *output) transform(params map[string]string, shaped bool) bool {
	if !shaped || params["g"] != metav1.GroupName || (params["v"] != "v1" && params["v"] != "v1beta1") {
		return false
	}
	switch s := shape(params["as"]); s {
	case shapeTable:
		// A table's cells have no protobuf form.
		if o.format == protobufFormat {
			return false
		}
		o.shape = s
	case shapeMetadata, shapeMetaList:
		o.shape = s
	default:
		return false
	}
	o.version = params["v"]
	return true
}

func (o *output) shapeKind(kind string) schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: metav1.GroupName, Version: o.version, Kind: kind}
}

// statusError makes an error for a status code that apimachinery has no constructor for.
func statusError(code int32, reason metav1.StatusReason, message string) *apierrors.StatusError {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: code, Reason: reason, Message: message,
	}}
}
