package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	dockerconfig "github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Bounds of what a registry may send. Manifests and configurations are read
// into memory, here and in containerd; registries themselves take manifests of
// up to 4 MiB.
const (
	maxManifest = 4 << 20
	maxConfig   = 8 << 20
	maxLayers   = 500 // overlayfs stacks no more
	// maxAnswer bounds every answer that is no blob: manifests, tokens, errors.
	maxAnswer = maxManifest + 1
)

// Bounds of how long a registry may say nothing.
const (
	headerTimeout = time.Minute // until an answer begins
	// defaultStall is how long a pull goes on without data, as
	// containerd's image_pull_progress_timeout, which is five minutes.
	defaultStall = time.Minute
	// stallBytes are what counts as data: a registry that sends a byte now and
	// then is stalled.
	stallBytes = 1 << 10
)

// registry is one pull's way to registries: it bounds what they send, sees
// whether they send anything, and keeps credentials from those they are not for.
type registry struct {
	host   string // that serves the image's name
	domain string // as credentials name it
	path   string
	creds  Credentials

	mu      sync.Mutex
	pending map[string]int // hosts that are waited for
	lookups map[string]int // those of them whose name DNS was asked for
	last    time.Time      // when data came; moved on by the time in which nothing was asked for
	got     int            // bytes since then, fewer than stallBytes
	idle    time.Time      // since when nothing is asked for, while pending is empty
	secure  bool           // the registry has been reached by TLS
}

func newRegistry(named reference.Named, creds Credentials) *registry {
	r := &registry{
		domain: reference.Domain(named), path: reference.Path(named), creds: creds,
		pending: map[string]int{}, lookups: map[string]int{}, last: time.Now(), idle: time.Now(),
	}
	if r.host = r.domain; r.host == defaultRegistry {
		r.host = "registry-1." + defaultRegistry
	}
	return r
}

func (r *registry) resolver(ctx context.Context, hostsDir string) remotes.Resolver {
	return docker.NewResolver(docker.ResolverOptions{
		Hosts: dockerconfig.ConfigureHosts(ctx, dockerconfig.HostOptions{
			HostDir:      dockerconfig.HostDirFromRoot(hostsDir),
			Credentials:  r.credentials,
			UpdateClient: r.updateClient,
		}),
	})
}

// credentials are asked for a host that wants some. Those of the image's
// registry are for that registry: a mirror, or a host that a redirect or a
// foreign layer leads to, gets its own or none (CVE-2020-15157).
func (r *registry) credentials(host string) (string, string, error) {
	domain := host
	if host == r.host {
		domain = r.domain
	}
	c, _ := r.creds.find(domain, r.path)
	if c.Token != "" {
		return "", c.Token, nil
	}
	return c.Username, c.Password, nil
}

func (r *registry) updateClient(client *http.Client) error {
	if _, done := client.Transport.(*watchedTransport); done {
		return nil
	}
	if transport, ok := client.Transport.(*http.Transport); ok {
		transport.ResponseHeaderTimeout = headerTimeout
	}
	client.Transport = &watchedTransport{client.Transport, r}
	client.CheckRedirect = checkRedirect
	return nil
}

// checkRedirect lets a registry lead elsewhere, as those do that keep layers in
// an object store, but with nothing that is meant for the registry alone: Go
// itself compares names without ports and passes other headers on.
func checkRedirect(next *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("stopped after 10 redirects")
	}
	from := via[0].URL
	if next.URL.Host == from.Host && next.URL.Scheme == from.Scheme {
		return nil
	}
	harmless := []string{"Accept", "Accept-Encoding", "Range", "User-Agent"}
	for name := range next.Header {
		if !slices.Contains(harmless, name) {
			next.Header.Del(name)
		}
	}
	return nil
}

// watchedTransport sees what comes from registries.
type watchedTransport struct {
	http.RoundTripper
	registry *registry
}

// RoundTrip implements http.RoundTripper.
func (t *watchedTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	host := request.URL.Host
	if err := t.registry.refusePlain(request); err != nil {
		return nil, err
	}
	t.registry.wait(host)
	trace := &httptrace.ClientTrace{
		DNSStart: func(info httptrace.DNSStartInfo) { t.registry.lookup(host, 1) },
		DNSDone:  func(httptrace.DNSDoneInfo) { t.registry.lookup(host, -1) },
	}
	response, err := t.RoundTripper.RoundTrip(request.WithContext(httptrace.WithClientTrace(request.Context(), trace)))
	t.registry.came(host, stallBytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", host, err)
	}
	t.registry.reached(request)
	limit := int64(maxAnswer)
	if isBlob(request) && response.StatusCode < 300 {
		limit = -1 // bounded by its descriptor, in containerd's own reader
	}
	if response.ContentLength > limit && limit >= 0 && request.Method != http.MethodHead {
		response.Body.Close()
		return nil, fmt.Errorf("%s answers with %d bytes where at most %d are expected: %w", host, response.ContentLength, limit-1, ErrTooLarge)
	}
	response.Body = &watchedBody{ReadCloser: response.Body, registry: t.registry, host: host, left: limit}
	return response, nil
}

// ErrTooLarge means that a registry offers more than an image may be.
var ErrTooLarge = errors.New("too large")

// isBlob recognises requests for layers and configurations, also where a redirect
// has led them elsewhere.
func isBlob(request *http.Request) bool {
	for request.Response != nil && request.Response.Request != nil {
		request = request.Response.Request
	}
	return strings.Contains(request.URL.Path, "/blobs/")
}

// refusePlain keeps credentials from a token service without TLS that a
// registry with TLS names.
func (r *registry) refusePlain(request *http.Request) error {
	r.mu.Lock()
	secure := r.secure
	r.mu.Unlock()
	carries := request.Header.Get("Authorization") != "" || request.Method == http.MethodPost
	if secure && carries && request.URL.Scheme == "http" {
		return fmt.Errorf("%s is reached by TLS but wants credentials sent to %s without: refused", r.host, request.URL.Host)
	}
	return nil
}

func (r *registry) reached(request *http.Request) {
	if request.URL.Scheme != "https" || request.URL.Host != r.host {
		return
	}
	r.mu.Lock()
	r.secure = true
	r.mu.Unlock()
}

func (r *registry) wait(host string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.pending) == 0 {
		r.last = r.last.Add(time.Since(r.idle)) // who was not asked cannot be late
	}
	r.pending[host]++
}

func (r *registry) came(host string, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.got += n; r.got >= stallBytes {
		r.last, r.got = time.Now(), 0
	}
	if r.pending[host]--; r.pending[host] == 0 {
		delete(r.pending, host)
		r.idle = time.Now()
	}
}

// lookup counts the questions to DNS about a host.
func (r *registry) lookup(host string, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lookups[host] += n; r.lookups[host] == 0 {
		delete(r.lookups, host)
	}
}

// stalled names the hosts that have been waited for since long ago.
func (r *registry) stalled(bound time.Duration) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	silent := time.Since(r.last)
	if len(r.pending) == 0 || silent < bound {
		return nil
	}
	var hosts []string
	for host := range r.pending {
		if r.lookups[host] > 0 {
			host = "the DNS server that was asked for " + host
		}
		hosts = append(hosts, host)
	}
	slices.Sort(hosts)
	return fmt.Errorf("%w: %s has sent nothing for %v", ErrPullStalled, strings.Join(hosts, ", "), silent.Round(time.Second))
}

// ErrPullStalled means that a registry stopped in the middle of a pull.
var ErrPullStalled = errors.New("pull stalled")

// watchedBody bounds an answer.
type watchedBody struct {
	io.ReadCloser
	registry *registry
	host     string
	left     int64 // bytes that may still come; negative: any number
}

func (b *watchedBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, fmt.Errorf("answer of %s: %w", b.host, ErrTooLarge)
	}
	if b.left > 0 {
		p = p[:min(int64(len(p)), b.left)]
	}
	b.registry.wait(b.host)
	n, err := b.ReadCloser.Read(p)
	b.registry.came(b.host, n)
	if b.left > 0 {
		b.left -= int64(n)
	}
	return n, err
}

// sizes refuses what no image needs before it is fetched.
func sizes() images.HandlerFunc {
	var mu sync.Mutex
	layers := map[string]bool{}
	return func(_ context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		bound, what := int64(0), ""
		switch {
		case images.IsManifestType(desc.MediaType), images.IsIndexType(desc.MediaType):
			bound, what = maxManifest, "manifest"
		case images.IsConfigType(desc.MediaType):
			bound, what = maxConfig, "configuration"
		case images.IsLayerType(desc.MediaType):
			mu.Lock()
			defer mu.Unlock()
			if layers[desc.Digest.String()] = true; len(layers) > maxLayers {
				return nil, fmt.Errorf("image has more than %d layers: %w", maxLayers, ErrTooLarge)
			}
		}
		if desc.Size < 0 || bound > 0 && desc.Size > bound {
			return nil, fmt.Errorf("%s %s has %d bytes, and at most %d are taken: %w", what, desc.Digest, desc.Size, bound, ErrTooLarge)
		}
		return nil, nil
	}
}
