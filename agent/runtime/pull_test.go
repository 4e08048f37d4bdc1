package runtime_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	registryserver "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/skep-io/skep/agent/runtime"
	"github.com/skep-io/skep/agent/runtime/runtimetest"
)

// badRegistry is a registry whose answers a test changes.
type badRegistry struct {
	*httptest.Server
	good http.Handler

	mu   sync.Mutex
	bad  func(w http.ResponseWriter, r *http.Request) (done bool)
	seen []*http.Request
}

func newRegistry(t *testing.T) *badRegistry {
	b := &badRegistry{good: registryserver.New(registryserver.Logger(log.New(io.Discard, "", 0)))}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		bad := b.bad
		b.seen = append(b.seen, r.Clone(context.Background()))
		b.mu.Unlock()
		if bad == nil || !bad(w, r) {
			b.good.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(func() { b.CloseClientConnections(); b.Close() })
	return b
}

func (b *badRegistry) host() string { return strings.TrimPrefix(b.URL, "http://") }

func (b *badRegistry) behave(bad func(w http.ResponseWriter, r *http.Request) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bad, b.seen = bad, nil
}

// authorizations are the credentials that have been sent here.
func (b *badRegistry) authorizations() (list []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.seen {
		if a := r.Header.Get("Authorization"); a != "" {
			list = append(list, a)
		}
	}
	return list
}

func (b *badRegistry) push(t *testing.T, repository string, img v1.Image) string {
	t.Helper()
	ref, err := name.ParseReference(b.host()+"/"+repository+":1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	return ref.Name()
}

// hostsFile configures the addresses by which a node reaches the registry.
func hostsFile(t *testing.T, n *runtimetest.Node, b *badRegistry, mirrors ...*badRegistry) {
	t.Helper()
	dir := filepath.Join(n.Config.HostsDir, strings.Replace(b.host(), ":", "_", 1)+"_")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("server = %q\n", b.URL)
	for _, m := range mirrors {
		text += fmt.Sprintf("[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", m.URL)
	}
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func isLayer(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/")
}

// hang keeps a request until its client leaves.
func hang(w http.ResponseWriter, r *http.Request) {
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

// Registries that misbehave in every possible way. A pull from them fails with an error that says why, within bounded time and disk
// space.
func TestRegistriesThatMisbehave(t *testing.T) {
	n := startNode(t)
	n.Disconnect()
	n.Config.PullStall = 2 * time.Second
	n.Connect()
	b := newRegistry(t)
	hostsFile(t, n, b)
	endless := func(w http.ResponseWriter, r *http.Request) {
		block := bytes.Repeat([]byte{'x'}, 1<<16)
		for r.Context().Err() == nil {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	}
	for what, test := range map[string]struct {
		bad  func(w http.ResponseWriter, r *http.Request) bool
		want error
	}{
		"silent from the start": {func(w http.ResponseWriter, r *http.Request) bool {
			<-r.Context().Done()
			return true
		}, runtime.ErrPullStalled},
		"silent after the headers of a layer": {func(w http.ResponseWriter, r *http.Request) bool {
			if isLayer(r) {
				w.Header().Set("Content-Length", "1000000")
				hang(w, r)
			}
			return isLayer(r)
		}, runtime.ErrPullStalled},
		"silent in the middle of a layer": {func(w http.ResponseWriter, r *http.Request) bool {
			if isLayer(r) {
				_, _ = w.Write(make([]byte, 100))
				hang(w, r)
			}
			return isLayer(r)
		}, runtime.ErrPullStalled},
		"a byte now and then": {func(w http.ResponseWriter, r *http.Request) bool {
			for isLayer(r) && r.Context().Err() == nil {
				_, _ = w.Write([]byte{'x'})
				_ = http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
				case <-time.After(100 * time.Millisecond):
				}
			}
			return isLayer(r)
		}, runtime.ErrPullStalled},
		"a layer without end": {func(w http.ResponseWriter, r *http.Request) bool {
			if isLayer(r) {
				endless(w, r)
			}
			return isLayer(r)
		}, nil}, // containerd's own reader knows the size
		"a manifest of 10 GB": {func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Content-Type", "application/vnd.docker.distribution.manifest.v2+json")
			w.Header().Set("Docker-Content-Digest", "sha256:"+strings.Repeat("a", 64))
			w.Header().Set("Content-Length", "10000000000")
			if r.Method == http.MethodGet {
				endless(w, r)
			}
			return true
		}, nil},
		"a manifest without end": {func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Content-Type", "application/vnd.docker.distribution.manifest.v2+json")
			if r.Method == http.MethodGet {
				endless(w, r)
			}
			return true
		}, runtime.ErrTooLarge},
		"a token without end": {func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/token" {
				_, _ = io.WriteString(w, `{"token":"`)
				endless(w, r)
				return true
			}
			w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer realm=%q,service=\"x\"", b.URL+"/token"))
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}, runtime.ErrTooLarge},
		"a layer that is another": {func(w http.ResponseWriter, r *http.Request) bool {
			if isLayer(r) {
				_, _ = io.WriteString(w, "something else")
			}
			return isLayer(r)
		}, nil},
	} {
		t.Run(what, func(t *testing.T) {
			b.behave(nil)
			// A configuration of its own: what is there already would not be fetched.
			image := b.push(t, "app", runtimetest.Image(t, func(c *v1.Config) { c.Labels = map[string]string{"for": what} }))
			b.behave(test.bad)
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			err := n.Pull(ctx, image, true, nil)
			if err == nil || ctx.Err() != nil || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			// What has come of it until then does not stay in the way.
			b.behave(nil)
			if err := n.Pull(context.Background(), image, true, nil); err != nil {
				t.Errorf("once the registry behaves: %v", err)
			}
		})
	}
	t.Run("others go on", func(t *testing.T) { testSlowRegistryHoldsNoOther(t, n, b) })
}

// A registry that hangs has its own limit of pulls; and its pulls end when the last pod that waits for them was removed.
func testSlowRegistryHoldsNoOther(t *testing.T, n *runtimetest.Node, slow *badRegistry) {
	n.Disconnect()
	n.Config.PullStall = time.Hour
	n.Connect()
	other := newRegistry(t)
	hostsFile(t, n, other)
	image := other.push(t, "app", runtimetest.Image(t, nil))
	left := make(chan struct{}, 100)
	slow.behave(func(_ http.ResponseWriter, r *http.Request) bool {
		<-r.Context().Done()
		left <- struct{}{}
		return true
	})
	ctx, cancel := context.WithCancel(context.Background())
	var pods sync.WaitGroup
	for i := range 10 {
		pods.Go(func() { _ = n.Pull(ctx, fmt.Sprintf("%s/slow%d:1", slow.host(), i), true, nil) })
	}
	runtimetest.Eventually(t, "requests to the slow registry", func() bool {
		slow.mu.Lock()
		defer slow.mu.Unlock()
		return len(slow.seen) >= 4
	})
	if err := n.Pull(context.Background(), image, true, nil); err != nil {
		t.Error(err)
	}
	cancel()
	pods.Wait()
	for range 4 {
		<-left
	}
}

// Credentials are for one registry: not for its mirrors, nor for hosts that it leads to (CVE-2020-15157).
func TestCredentialsStayWithTheirRegistry(t *testing.T) {
	n := startNode(t)
	b, foreign := newRegistry(t), newRegistry(t)
	creds := runtime.Credentials{{Scope: b.host(), Username: "user", Password: "secret"}}
	wantsBasic := func(w http.ResponseWriter, r *http.Request) bool {
		if _, _, ok := r.BasicAuth(); ok {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	refuse := func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	for what, test := range map[string]struct {
		mirrors []*badRegistry
		own     func(w http.ResponseWriter, r *http.Request) bool
		foreign func(w http.ResponseWriter, r *http.Request) bool
		fails   bool
	}{
		"a mirror that asks": {mirrors: []*badRegistry{foreign}, own: wantsBasic, foreign: refuse},
		"a redirect to a host that does not ask": {own: func(w http.ResponseWriter, r *http.Request) bool {
			if wantsBasic(w, r) {
				return true
			}
			if isLayer(r) {
				http.Redirect(w, r, foreign.URL+r.URL.Path, http.StatusTemporaryRedirect)
			}
			return isLayer(r)
		}, foreign: func(w http.ResponseWriter, r *http.Request) bool {
			b.good.ServeHTTP(w, r)
			return true
		}},
		"a redirect to a host that asks": {own: func(w http.ResponseWriter, r *http.Request) bool {
			if wantsBasic(w, r) {
				return true
			}
			if isLayer(r) {
				http.Redirect(w, r, foreign.URL+r.URL.Path, http.StatusTemporaryRedirect)
			}
			return isLayer(r)
		}, foreign: refuse, fails: true},
	} {
		t.Run(what, func(t *testing.T) {
			hostsFile(t, n, b, test.mirrors...)
			foreign.behave(test.foreign)
			b.behave(nil)
			// A configuration of its own: what is there already would not be fetched.
			image := b.push(t, "app", runtimetest.Image(t, func(c *v1.Config) { c.Labels = map[string]string{"for": what} }))
			b.behave(test.own)
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if err := n.Pull(ctx, image, true, creds); (err != nil) != test.fails {
				t.Errorf("pull: %v", err)
			}
			if got := foreign.authorizations(); len(got) > 0 {
				t.Errorf("the other host was sent %q", got)
			}
			if foreign.mu.Lock(); len(foreign.seen) == 0 {
				t.Error("the other host was not asked")
			}
			foreign.mu.Unlock()
			if len(b.authorizations()) == 0 {
				t.Error("the registry was sent no credentials")
			}
		})
	}
}

// A layer of 200 kB that unpacks to more than the disk has is stopped before the disk is full, and leaves nothing.
func TestLayerThatFillsTheDisk(t *testing.T) {
	disk := t.TempDir()
	if err := syscall.Mount("pull-test", disk, "tmpfs", 0, "size=64m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	n := runtimetest.StartWith(t, func(n *runtimetest.Node) { n.Daemon.Root = filepath.Join(disk, "containerd") })
	b := newRegistry(t)
	hostsFile(t, n, b)
	bomb := runtimetest.TarFile(t, "zeros", make([]byte, 200<<20))
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(bomb)), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(runtimetest.Image(t, nil), layer)
	if err != nil {
		t.Fatal(err)
	}
	image := b.push(t, "bomb", img)
	err = n.Pull(context.Background(), image, true, nil)
	if err == nil || !strings.Contains(err.Error(), "no space left on ") {
		t.Errorf("pull: %v", err)
	}
	runtimetest.Eventually(t, "room on the disk", func() bool {
		if err := n.CollectGarbage(context.Background()); err != nil {
			t.Fatal(err)
		}
		var st syscall.Statfs_t
		return syscall.Statfs(disk, &st) == nil && st.Bavail > st.Blocks*9/10
	})
	if err := n.Pull(context.Background(), b.push(t, "small", runtimetest.Image(t, nil)), true, nil); err != nil {
		t.Errorf("an image that fits: %v", err)
	}
}
