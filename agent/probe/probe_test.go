package probe

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func portOf(t *testing.T, addr net.Addr) int {
	t.Helper()
	_, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestHTTP(t *testing.T) {
	var seen *http.Request
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = r
		switch r.URL.Path {
		case "/bad":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/near":
			http.Redirect(w, r, "/bad", http.StatusFound)
		case "/far":
			http.Redirect(w, r, "http://localhost.invalid/", http.StatusFound)
		default:
			fmt.Fprint(w, "fine")
		}
	}))
	defer server.Close()
	port := portOf(t, server.Listener.Addr())
	target := Target{Host: "127.0.0.1", Container: &corev1.Container{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: int32(port)}}}}
	attempt := func(path string, headers ...corev1.HTTPHeader) Outcome {
		return Attempt(context.Background(), &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromString("web"), HTTPHeaders: headers}}}, target)
	}
	if got := attempt("ok?x=1", corev1.HTTPHeader{Name: "Host", Value: "example.test"}); !got.OK || got.Output != "fine" {
		t.Errorf("ok: %+v", got)
	}
	if seen.Host != "example.test" || seen.URL.RawQuery != "x=1" || !strings.HasPrefix(seen.UserAgent(), "kube-probe/") || seen.Header.Get("Accept") != "*/*" {
		t.Errorf("request %s %s %v", seen.Host, seen.URL, seen.Header)
	}
	if got := attempt("/bad"); got.OK || got.Output != "HTTP probe failed with statuscode: 503" {
		t.Errorf("bad: %+v", got)
	}
	if got := attempt("/near"); got.OK {
		t.Errorf("a redirect on the same host was not followed: %+v", got)
	}
	if got := attempt("/far"); !got.OK || !got.Warning {
		t.Errorf("a redirect to another host: %+v, want success with a warning", got)
	}
	target.Container.Ports = nil
	if got := attempt("/"); got.Err == nil {
		t.Errorf("an unknown port name: %+v", got)
	}
}

func TestTCPAndTimeout(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := portOf(t, l.Addr())
	target := Target{Host: "127.0.0.1", Container: &corev1.Container{}}
	tcp := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(int32(port))}}}
	if got := Attempt(context.Background(), tcp, target); !got.OK {
		t.Errorf("open port: %+v", got)
	}
	// The listener accepts nothing: an HTTP probe of it runs into its timeout.
	get := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(int32(port))}}, TimeoutSeconds: 1}
	began := time.Now()
	if got := Attempt(context.Background(), get, target); got.OK || !strings.Contains(got.Output, "context deadline exceeded") || time.Since(began) > 10*time.Second {
		t.Errorf("silent server after %v: %+v", time.Since(began), got)
	}
	l.Close()
	if got := Attempt(context.Background(), tcp, target); got.OK || !strings.Contains(got.Output, "connection refused") {
		t.Errorf("closed port: %+v", got)
	}
}

func TestExec(t *testing.T) {
	target := Target{Container: &corev1.Container{}, Exec: func(ctx context.Context, command []string, out io.Writer) (int, error) {
		if command[0] == "hang" {
			<-ctx.Done()
			return -1, ctx.Err()
		}
		fmt.Fprint(out, strings.Repeat("x", 2*maxOutput))
		return 1, nil
	}}
	probe := func(command string) Outcome {
		return Attempt(context.Background(), &corev1.Probe{TimeoutSeconds: 1, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{command}}}}, target)
	}
	if got := probe("fail"); got.OK || got.Err != nil || len(got.Output) != maxOutput {
		t.Errorf("failing command: OK %v, err %v, %d bytes", got.OK, got.Err, len(got.Output))
	}
	if got := probe("hang"); got.OK || got.Err != nil || got.Output != `command timed out: "hang" timed out after 1s` {
		t.Errorf("hanging command: %+v", got)
	}
}

func TestGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, answers := grpc.NewServer(), health.NewServer()
	healthpb.RegisterHealthServer(server, answers)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	defer func() { server.Stop(); <-done }()
	probe := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: int32(portOf(t, l.Addr()))}}}
	target := Target{Host: "127.0.0.1", Container: &corev1.Container{}}
	if got := Attempt(context.Background(), probe, target); !got.OK {
		t.Errorf("serving: %+v", got)
	}
	answers.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	if got := Attempt(context.Background(), probe, target); got.OK || got.Output != `service unhealthy (responded with "NOT_SERVING")` {
		t.Errorf("not serving: %+v", got)
	}
}

func TestCounter(t *testing.T) {
	for name, test := range map[string]struct {
		counter counter
		results string // + success, - failure
		want    string // what changes: + to ok, - to not ok, . nothing
	}{
		"readiness from nothing": {counter{success: 1, failure: 3}, "-+--+---+", ".+.....-+"},
		"two successes":          {counter{success: 2, failure: 1}, "+-++-", ".-.+-"},
		"liveness":               {counter{success: 1, failure: 3, answer: true, settled: true}, "+--+---", "......-"},
		"adopted ready":          {counter{success: 1, failure: 1, answer: true, settled: true}, "++-", "..-"},
	} {
		t.Run(name, func(t *testing.T) {
			c := test.counter
			got := ""
			for _, r := range test.results {
				switch changed := c.add(r == '+'); {
				case !changed:
					got += "."
				case c.answer:
					got += "+"
				default:
					got += "-"
				}
			}
			if got != test.want {
				t.Errorf("results %s gave %s, want %s", test.results, got, test.want)
			}
		})
	}
}
