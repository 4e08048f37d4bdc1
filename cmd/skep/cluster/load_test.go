package cluster

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// The error of a load has the reason why a host did not accept the image, from the agent or from the API server.
func TestLoadImageTellsWhy(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			t.Error(err)
		}
		switch r.URL.Path {
		case "/api/v1/nodes/good/proxy/images/load":
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, `{"images":["a:1"]}`)
		case "/api/v1/nodes/picky/proxy/images/load": // as an agent answers
			http.Error(w, "load images: not a docker archive or OCI layout", http.StatusBadRequest)
		default: // as the API server does
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusNotFound)
			io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"nodes \"absent\" not found","reason":"NotFound","details":{"name":"absent","kind":"nodes"},"code":404}`)
		}
	}))
	defer server.Close()
	client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	var loaded []string
	err = LoadImage(t.Context(), client, []string{"good", "picky", "absent"},
		func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("an archive")), nil },
		func(node string) { loaded = append(loaded, node) }) // one host only calls it
	const want = "picky: load images: not a docker archive or OCI layout\nabsent: nodes \"absent\" not found"
	if err == nil || err.Error() != want {
		t.Errorf("error:\n%v\nwant:\n%s", err, want)
	}
	if len(loaded) != 1 || loaded[0] != "good" {
		t.Errorf("loaded onto %v", loaded)
	}
}
