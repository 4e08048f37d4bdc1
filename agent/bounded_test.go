package agent

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// An API server that accepts requests and never answers: the request fails after the time limit with an error that names it; a watch
// waits.
func TestAPIServerThatNeverAnswers(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer server.Close()
	const bound = 200 * time.Millisecond
	client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL, WrapTransport: func(t http.RoundTripper) http.RoundTripper {
		return &boundedTransport{RoundTripper: t, bound: bound}
	}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.CoreV1().Pods("default").Get(context.Background(), "a", metav1.GetOptions{})
	if err == nil || !strings.Contains(err.Error(), "/api/v1/namespaces/default/pods/a: the API server has not answered for 200ms") {
		t.Errorf("get: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*bound)
	defer cancel()
	if _, err := client.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{}); err == nil || strings.Contains(err.Error(), "has not answered") {
		t.Errorf("watch: %v", err)
	}
}
