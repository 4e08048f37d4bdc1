package apiserver

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"

	"go.yaml.in/yaml/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Bounds of what a body may decode to. A container takes 1,200 bytes decoded, and three in a body ("{},"), so that size alone
// bounds nothing. No object that etcd takes has so many values, and no type of the API is nested so deep.
const (
	maxValues = 100000
	maxDepth  = 100
	// plainBody is the size up to which a body is not checked: it cannot take much memory.
	plainBody = 16 << 10
)

// checkShape refuses a body that would take far more memory or time to decode than it has bytes.
func checkShape(contentType string, body []byte) error {
	if len(body) <= plainBody && !aliased(body) {
		return nil
	}
	switch mediaType, _, _ := strings.Cut(contentType, ";"); {
	case mediaType == "" || strings.HasSuffix(mediaType, "json"):
		return checkJSON(body)
	case strings.HasSuffix(mediaType, "yaml"):
		return checkYAML(body)
	}
	return nil
}

// checkJSON counts values by their separators, and does not check that the body is valid JSON.
func checkJSON(body []byte) error {
	values, depth := 0, 0
	for i := 0; i < len(body); i++ {
		switch body[i] {
		case '"':
			for i++; i < len(body) && body[i] != '"'; i++ {
				if body[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			values++
			if depth++; depth > maxDepth {
				return errTooDeep()
			}
		case '}', ']':
			depth--
		case ',':
			values++
		}
	}
	return countAllowed(values)
}

// aliased says whether a document in YAML could repeat a part of itself (billion laughs, CVE-2019-11253).
func aliased(body []byte) bool {
	return bytes.IndexByte(body, '&') >= 0 && bytes.IndexByte(body, '*') >= 0
}

// checkYAML counts what a document expands to. The library refuses documents that are mostly repeated structure; it accepts a long text
// that is repeated many times, which shares its memory until it is encoded as JSON.
func checkYAML(body []byte) error {
	if lines := bytes.Count(body, []byte("\n")) + bytes.Count(body, []byte(",")); lines <= maxValues && !aliased(body) {
		return nil
	}
	var document any
	if err := yaml.Unmarshal(body, &document); err != nil {
		return nil // the decoder says what is wrong
	}
	size := unfolded{}
	if err := size.add(document, 0); err != nil {
		return err
	}
	return countAllowed(size.values)
}

// unfolded is the size of a document with all its aliases expanded.
type unfolded struct{ values, bytes int }

func (u *unfolded) add(value any, depth int) (err error) {
	if u.values++; depth > maxDepth {
		return errTooDeep()
	}
	switch v := value.(type) {
	case string:
		u.bytes += len(v)
	case []any:
		for i := 0; i < len(v) && err == nil; i++ {
			err = u.add(v[i], depth+1)
		}
	case map[any]any:
		for key, item := range v {
			if err = u.add(key, depth+1); err == nil {
				err = u.add(item, depth+1)
			}
			if err != nil {
				break
			}
		}
	}
	if err == nil && u.bytes > maxBody {
		err = errBodyTooLarge()
	}
	if err == nil {
		err = countAllowed(u.values)
	}
	return err
}

func countAllowed(values int) error {
	if values <= maxValues {
		return nil
	}
	return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("the body has more than %d values", maxValues))
}

func errTooDeep() error {
	return statusError(http.StatusBadRequest, metav1.StatusReasonBadRequest, fmt.Sprintf("the body exceeded max depth: it is nested more than %d deep", maxDepth))
}
