package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	skepv1 "github.com/skep-io/skep/api/v1"
)

func TestPanicBecomes500(t *testing.T) {
	s := &Server{metrics: newServerMetrics(newLimits(0))} // everything else is nil, so that serving panics
	recorder := httptest.NewRecorder()
	s.ServeHTTP(recorder, httptest.NewRequest("GET", skepv1.PathCA, nil))
	if recorder.Code != 500 || !strings.Contains(recorder.Body.String(), "InternalError") || strings.Contains(recorder.Body.String(), "nil pointer") {
		t.Errorf("%d %s", recorder.Code, recorder.Body)
	}
}

// When the server ends, watches end cleanly and at once, and requests after that are refused.
func TestShutdownEndsWatches(t *testing.T) {
	p, err := start(t.TempDir(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := p.client.CoreV1().ConfigMaps("").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	p.stop()
	if took := time.Since(began); took > shutdownTimeout/2 {
		t.Errorf("the server took %s to end", took)
	}
	for event := range w.ResultChan() {
		if event.Type == watch.Error {
			t.Errorf("the watch ended with %v", event.Object)
		}
	}
	if _, err := p.client.CoreV1().ConfigMaps("").List(t.Context(), metav1.ListOptions{}); err == nil {
		t.Error("the server answers after its end")
	}
}

// A client that does not read its watch is ended, and does not hold up a client that does.
func TestSlowWatcher(t *testing.T) {
	p, err := start(t.TempDir(), Config{WriteTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer p.stop()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	transport, err := rest.TransportFor(p.config)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(ctx, "GET", p.url+"/api/v1/configmaps?watch=1&resourceVersion=0", nil)
	if err != nil {
		t.Fatal(err)
	}
	slow, err := transport.RoundTrip(request) // and never read
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Body.Close()
	quick, err := p.client.CoreV1().ConfigMaps("default").Watch(ctx, metav1.ListOptions{ResourceVersion: "0", LabelSelector: "big"})
	if err != nil {
		t.Fatal(err)
	}
	defer quick.Stop()
	const changes = 24
	go func() {
		for i := range changes {
			cm := configMap(fmt.Sprintf("m%d", i), "k", strings.Repeat("x", 512<<10))
			cm.Labels = map[string]string{"big": ""}
			if _, err := p.client.CoreV1().ConfigMaps("default").Create(ctx, cm, metav1.CreateOptions{}); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for n := range changes {
		select {
		case _, ok := <-quick.ResultChan():
			if !ok {
				t.Fatalf("the quick watch ended after %d events", n)
			}
		case <-ctx.Done():
			t.Fatalf("the quick watch has %d of %d events", n, changes)
		}
	}
	for left := false; !left; {
		_, metrics := p.raw(t, p.config, "GET", "/metrics", nil, "")
		left = strings.Contains(string(metrics), `apiserver_longrunning_requests{component="apiserver",group="",resource="configmaps",scope="namespace",subresource="",verb="WATCH",version="v1"} 1`)
		select {
		case <-ctx.Done():
			t.Fatal("the watch that nobody reads is still open")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// A watch without events lasts longer than the write timeout.
func TestQuietWatch(t *testing.T) {
	const limit = 200 * time.Millisecond
	p, err := start(t.TempDir(), Config{WriteTimeout: limit})
	if err != nil {
		t.Fatal(err)
	}
	defer p.stop()
	maps := p.client.CoreV1().ConfigMaps("default")
	w, err := maps.Watch(t.Context(), metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	quiet := time.After(0)
	for _, name := range []string{"a", "b"} {
		select {
		case event := <-w.ResultChan():
			t.Fatalf("the watch ended, or saw what was not there: %v", event)
		case <-quiet:
		}
		if _, err := maps.Create(t.Context(), configMap(name), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if event := <-w.ResultChan(); event.Type != watch.Added {
			t.Fatalf("event %v, want ADDED %s", event, name)
		}
		quiet = time.After(5 * limit)
	}
}
