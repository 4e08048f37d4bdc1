package agent

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// apiServer answers, or hangs with its connections open, as a process does that is paused.
type apiServer struct {
	*httptest.Server
	hangs   atomic.Bool
	renewed atomic.Int32
}

func newAPIServer(t *testing.T) *apiServer {
	s := &apiServer{}
	release := make(chan struct{})
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.hangs.Load() {
			select {
			case <-release:
			case <-r.Context().Done():
			}
			return
		}
		if r.URL.Query().Get("watch") != "" {
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return
		}
		s.renewed.Add(1)
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(func() {
		close(release)
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

// An agent leaves a server that is dead, or that hangs with its connections open, for the next, and its watches with it.
func TestAgentTurnsToAnotherServer(t *testing.T) {
	for _, fault := range []string{"dead", "hangs"} {
		t.Run(fault, func(t *testing.T) {
			first, second := newAPIServer(t), newAPIServer(t)
			cfg := Config{Server: first.URL, StateDir: t.TempDir(), NodeName: "n"}
			s := newServers(cfg)
			s.update([]string{first.URL, second.URL})
			s.use(strings.TrimPrefix(first.URL, "https://"))
			d := newDialer(s)
			client := &http.Client{Transport: &boundedTransport{
				RoundTripper: &http.Transport{DialContext: d.dial, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true},
				bound:        time.Minute, unanswered: d.leave,
			}}
			defer client.CloseIdleConnections()
			renew := func(ctx context.Context) error {
				request, err := http.NewRequestWithContext(ctx, http.MethodPut, cfg.Server+leases+"n", nil)
				if err != nil {
					return err
				}
				response, err := client.Do(request)
				if err != nil {
					return err
				}
				return response.Body.Close()
			}
			if err := renew(t.Context()); err != nil || first.renewed.Load() != 1 {
				t.Fatalf("the first server does not serve: %v", err)
			}
			watch, err := client.Get(cfg.Server + "/api/v1/pods?watch=true")
			if err != nil {
				t.Fatal(err)
			}
			defer watch.Body.Close()
			watchEnded := make(chan struct{})
			go func() {
				_, _ = watch.Body.Read(make([]byte, 1)) // until the connection ends
				close(watchEnded)
			}()

			began := time.Now()
			if first.hangs.Store(true); fault == "dead" {
				first.Listener.Close()
				first.CloseClientConnections()
			}
			for second.renewed.Load() == 0 {
				if time.Since(began) > 60*time.Second {
					t.Fatal("the second server gets no renewal")
				}
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				_ = renew(ctx) // the first ones fail
				cancel()
			}
			select {
			case <-watchEnded:
			case <-time.After(60 * time.Second):
				t.Fatal("the watch hangs on at the first server")
			}
			t.Logf("the second server is used after %v", time.Since(began).Round(time.Millisecond))

			// What is known outlives the agent, without the server of --server.
			again := newServers(cfg)
			if urls := again.known(); !slices.Contains(urls, second.URL) || !slices.Contains(urls, first.URL) || len(urls) != 2 {
				t.Errorf("after a restart the servers are %v", urls)
			}
		})
	}
}

// Servers that are all slow are not left in turn for ever: a change is given time, more each time.
func TestServersAreLeftSeldom(t *testing.T) {
	s := newServers(Config{Server: "https://a:1", StateDir: t.TempDir()})
	now := time.Now()
	if _, ok := s.mayLeave(now); ok {
		t.Error("the only server is left")
	}
	s.update([]string{"https://a:1", "https://b:1", "https://c:1"})
	changes := 0
	for range 600 { // seconds, all of them without an answer
		if now = now.Add(time.Second); func() bool { _, ok := s.mayLeave(now); return ok }() {
			changes++
		}
	}
	if changes < 10 || changes > 30 {
		t.Errorf("%d changes in ten minutes", changes)
	}
}
