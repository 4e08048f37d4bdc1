package resource

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// FuzzContinue reads continue tokens, which clients send back: an accepted token means the same when it is written again, and no key
// outside of the list; a refused one is an error of the client.
func FuzzContinue(f *testing.F) {
	f.Add(encodeContinue(7, "ns/name\x00"))
	f.Add(encodeContinue(-1, "a"))
	for _, text := range []string{
		"", "{}", "null", "[", `{"v":"meta.k8s.io/v1","rv":1,"start":"../secrets/x"}`, `{"v":"meta.k8s.io/v1","rv":9223372036854775808,"start":"a"}`,
		`{"v":"meta.k8s.io/v1","rv":1,"start":"a","start":"/../b"}`, `{"v":"meta.k8s.io/v1","rv":1,"start":"\u0000"}`, `{"v":"meta.k8s.io/v1","rv":1,"start":"\ud800"}`,
	} {
		f.Add(base64.RawURLEncoding.EncodeToString([]byte(text)))
	}
	f.Add("%%%")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := decodeContinue(text)
		if err != nil {
			if status := apierrors.APIStatus(nil); !errors.As(err, &status) || status.Status().Code != 400 {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		if again, err := decodeContinue(encodeContinue(token.Revision, token.Start)); err != nil || again != token {
			t.Fatalf("%q is %+v, and written again %+v (%v)", text, token, again, err)
		}
		if token.Revision == 0 || token.Start == "" || strings.HasPrefix(token.Start, "../") || strings.Contains(token.Start, "/../") {
			t.Fatalf("%q leads to %+v", text, token)
		}
	})
}
