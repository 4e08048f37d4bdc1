// Package probe runs the liveness, readiness and startup probes of containers.
//
// It owns one attempt (Attempt) and the counting of attempts over time (Watch). It decides nothing:
// package pod derives restarts and readiness from its reports. It has no state beyond a Watch.
package probe

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Target is the container that is probed.
type Target struct {
	Host      string // pod IP, or the node's for a pod on the host network
	Container *corev1.Container
	// Exec runs a command in the container; output may be nil.
	Exec func(ctx context.Context, command []string, output io.Writer) (exitCode int, err error)
}

// Outcome of one attempt.
type Outcome struct {
	OK      bool
	Warning bool   // OK, but worth an event
	Output  string // for the event
	// Err is set when the attempt itself could not be made.
	Err error
}

// maxOutput limits how much of an answer is kept.
const maxOutput = 10 << 10

// userAgent and the other headers are those of Kubernetes' own probes.
const userAgent = "kube-probe/1.37"

// Timeout is the probe's, at least its default of one second.
func Timeout(p *corev1.Probe) time.Duration {
	return time.Duration(max(p.TimeoutSeconds, 1)) * time.Second
}

// Attempt makes one attempt and returns within the probe's timeout.
func Attempt(ctx context.Context, p *corev1.Probe, t Target) Outcome {
	ctx, cancel := context.WithTimeout(ctx, Timeout(p))
	defer cancel()
	switch {
	case p.Exec != nil:
		return attemptExec(ctx, p, t)
	case p.HTTPGet != nil:
		return attemptHTTP(ctx, p.HTTPGet, t)
	case p.TCPSocket != nil:
		return attemptTCP(ctx, p.TCPSocket, t)
	case p.GRPC != nil:
		return attemptGRPC(ctx, p, t)
	}
	return Outcome{Err: fmt.Errorf("missing probe handler for %s", t.Container.Name)}
}

func attemptExec(ctx context.Context, p *corev1.Probe, t Target) Outcome {
	var out limited
	code, err := t.Exec(ctx, p.Exec.Command, &out)
	switch {
	case err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return Outcome{Output: fmt.Sprintf("command timed out: %q timed out after %s", strings.Join(p.Exec.Command, " "), Timeout(p))}
	case err != nil:
		return Outcome{Err: err}
	}
	return Outcome{OK: code == 0, Output: out.String()}
}

// limited keeps the first part of what is written.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if room := maxOutput - l.Len(); room > 0 {
		l.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// Port resolves a number or the name of a container port.
func Port(p intstr.IntOrString, c *corev1.Container) (int, error) {
	port := p.IntValue()
	if p.Type == intstr.String {
		port = 0
		for _, candidate := range c.Ports {
			if candidate.Name == p.StrVal {
				port = int(candidate.ContainerPort)
			}
		}
		if n, err := strconv.Atoi(p.StrVal); port == 0 && err == nil {
			port = n
		}
	}
	if port < 1 || port > 65535 {
		return 0, fmt.Errorf("couldn't find port: %s", p.String())
	}
	return port, nil
}

func attemptTCP(ctx context.Context, a *corev1.TCPSocketAction, t Target) Outcome {
	port, err := Port(a.Port, t.Container)
	if err != nil {
		return Outcome{Err: err}
	}
	host := a.Host
	if host == "" {
		host = t.Host
	}
	conn, err := dialer().DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return Outcome{Output: err.Error()}
	}
	conn.Close()
	return Outcome{OK: true}
}

// dialer shortens the linger time of closed connections: a node that probes its pods all day would
// run out of ports.
func dialer() *net.Dialer { return &net.Dialer{Control: lingerShort} }

// HTTPRequest builds the request of an HTTP probe or lifecycle hook.
func HTTPRequest(ctx context.Context, a *corev1.HTTPGetAction, t Target, agent string) (*http.Request, error) {
	port, err := Port(a.Port, t.Container)
	if err != nil {
		return nil, err
	}
	host := a.Host
	if host == "" {
		host = t.Host
	}
	target, err := url.Parse(a.Path)
	if err != nil {
		target = &url.URL{Path: a.Path}
	}
	target.Scheme, target.Host = strings.ToLower(string(a.Scheme)), net.JoinHostPort(host, strconv.Itoa(port))
	if target.Scheme == "" {
		target.Scheme = "http"
	}
	if !strings.HasPrefix(target.Path, "/") {
		target.Path = "/" + target.Path
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, err
	}
	for _, h := range a.HTTPHeaders {
		request.Header.Add(h.Name, h.Value)
	}
	if request.Header.Get("Host") != "" {
		request.Host = request.Header.Get("Host")
	}
	if _, set := request.Header["User-Agent"]; !set {
		request.Header.Set("User-Agent", agent)
	}
	// An empty Accept means that the pod wants none sent.
	switch values, set := request.Header["Accept"]; {
	case !set:
		request.Header.Set("Accept", "*/*")
	case len(values) > 0 && values[0] == "":
		request.Header.Del("Accept")
	}
	return request, nil
}

// HTTPClient is for requests to pods: no proxy, no certificate checks, no kept connections.
func HTTPClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // as with kubelet, a pod's certificate is not verified
			DisableKeepAlives: true,
			Proxy:             nil,
			DialContext:       dialer().DialContext,
			// The size of a compressed answer would mislead users.
			DisableCompression: true,
		},
		CheckRedirect: func(next *http.Request, via []*http.Request) error {
			if next.URL.Hostname() != via[0].URL.Hostname() {
				return http.ErrUseLastResponse // a redirect to another host is not followed, and counts as success
			}
			if len(via) >= 10 {
				return errors.New("stopped after 10 redirects")
			}
			return nil
		},
	}
}

func attemptHTTP(ctx context.Context, a *corev1.HTTPGetAction, t Target) Outcome {
	request, err := HTTPRequest(ctx, a, t, userAgent)
	if err != nil {
		return Outcome{Err: err}
	}
	client := HTTPClient()
	defer client.CloseIdleConnections()
	response, err := client.Do(request)
	if err != nil {
		return Outcome{Output: err.Error()}
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxOutput))
	if err != nil {
		return Outcome{Output: err.Error()}
	}
	switch {
	case response.StatusCode >= 300 && response.StatusCode < 400:
		return Outcome{OK: true, Warning: true, Output: fmt.Sprintf("Probe terminated redirects, Response body: %v", string(body))}
	case response.StatusCode >= 200 && response.StatusCode < 400:
		return Outcome{OK: true, Output: string(body)}
	}
	return Outcome{Output: fmt.Sprintf("HTTP probe failed with statuscode: %d", response.StatusCode)}
}

func attemptGRPC(ctx context.Context, p *corev1.Probe, t Target) Outcome {
	service := ""
	if p.GRPC.Service != nil {
		service = *p.GRPC.Service
	}
	address := net.JoinHostPort(t.Host, strconv.Itoa(int(p.GRPC.Port)))
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithUserAgent(userAgent),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return dialer().DialContext(ctx, "tcp", addr)
		}))
	if err != nil {
		return Outcome{Output: err.Error()}
	}
	defer conn.Close()
	response, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: service}, grpc.WaitForReady(true))
	if err != nil {
		switch status.Code(err) {
		case codes.Unimplemented:
			return Outcome{Output: fmt.Sprintf("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): %s", status.Convert(err).Message())}
		case codes.DeadlineExceeded:
			return Outcome{Output: fmt.Sprintf("timeout: health rpc did not complete within %v", Timeout(p))}
		}
		return Outcome{Output: fmt.Sprintf("error: health rpc probe failed: %+v", err)}
	}
	if response.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		return Outcome{Output: fmt.Sprintf("service unhealthy (responded with %q)", response.GetStatus().String())}
	}
	return Outcome{OK: true, Output: "service healthy"}
}
