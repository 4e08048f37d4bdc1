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

// Bounds of how long a registry may send nothing.
const (
	headerTimeout = time.Minute // until an answer begins
	// defaultStall is how long a pull may go without data. It corresponds to containerd's
	// image_pull_progress_timeout, which is five minutes.
	defaultStall = time.Minute
	// stallBytes is the least that counts as data: a registry that sends a byte now and then is
	// stalled.
	stallBytes = 1 << 10
)

// registry is one pull's client of registries: it limits what they send, detects that they send
// nothing, and sends credentials only to the registry that they are for.
type registry struct {
	host   string // serves the image's name
	domain string // the host's name in credentials
	path   string
	creds  Credentials

	mu      sync.Mutex
	pending map[string]int // hosts with requests under way
	lookups map[string]int // those of them whose name is being resolved
	last    time.Time      // when data last arrived; times without a request under way are added
	got     int            // bytes since then, fewer than stallBytes
	idle    time.Time      // since when no request is under way, while pending is empty
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

// credentials returns those for a host that asks for some. Those of the image's registry are only
// for that registry: a mirror, or a host that a redirect or a foreign layer leads to, gets its own
// or none (CVE-2020-15157).
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

// checkRedirect allows redirects, as from registries that keep layers in an object store, but
// removes headers meant for the registry alone: Go itself compares names without ports and passes
// other headers on.
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

// watchedTransport limits and counts the answers of registries.
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
	response.Body = &watchedBody{ReadCloser: response.Body, registry: t.registry, host: host, remaining: limit}
	return response, nil
}

// ErrTooLarge means that a registry offers more than an image may be.
var ErrTooLarge = errors.New("too large")

// isBlob recognises requests for layers and configurations, also after a redirect.
func isBlob(request *http.Request) bool {
	for request.Response != nil && request.Response.Request != nil {
		request = request.Response.Request
	}
	return strings.Contains(request.URL.Path, "/blobs/")
}

// refusePlain refuses to send credentials to a token service without TLS if the registry has TLS.
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
		r.last = r.last.Add(time.Since(r.idle)) // time without a request does not count
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

// lookup counts DNS queries under way for a host.
func (r *registry) lookup(host string, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lookups[host] += n; r.lookups[host] == 0 {
		delete(r.lookups, host)
	}
}

// stalled returns an error that names the pending hosts if no data arrived for longer than the
// bound.
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

// watchedBody limits the size of an answer.
type watchedBody struct {
	io.ReadCloser
	registry  *registry
	host      string
	remaining int64 // bytes that may still come; negative: any number
}

func (b *watchedBody) Read(p []byte) (int, error) {
	if b.remaining == 0 {
		return 0, fmt.Errorf("answer of %s: %w", b.host, ErrTooLarge)
	}
	if b.remaining > 0 {
		p = p[:min(int64(len(p)), b.remaining)]
	}
	b.registry.wait(b.host)
	n, err := b.ReadCloser.Read(p)
	b.registry.came(b.host, n)
	if b.remaining > 0 {
		b.remaining -= int64(n)
	}
	return n, err
}

// sizes refuses parts that are too large for an image before they are fetched.
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
			return nil, fmt.Errorf("%s %s has %d bytes, and at most %d are accepted: %w", what, desc.Digest, desc.Size, bound, ErrTooLarge)
		}
		return nil, nil
	}
}
