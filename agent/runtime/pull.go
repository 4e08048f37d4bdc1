package runtime

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/distribution/reference"
	"golang.org/x/sys/unix"
)

// Limits of concurrent pulls, from one registry and from all; each pull fetches a few layers in parallel itself.
const (
	maxPullsPerRegistry = 4
	maxPulls            = 32
)

// pullWatch is how often a pull is checked: a layer can unpack a few hundred megabytes in this time.
const pullWatch = 200 * time.Millisecond

// Credential is for one registry, or a part of it.
type Credential struct {
	Scope              string // host, or host/path
	Username, Password string
	Token              string // identity token, instead of a password
}

// Credentials are a pod's image pull secrets.
type Credentials []Credential

// ParseDockerConfig reads a kubernetes.io/dockerconfigjson secret's value or,
// with legacy, a kubernetes.io/dockercfg one.
func ParseDockerConfig(data []byte, legacy bool) (Credentials, error) {
	type auth struct {
		Username, Password, Auth, IdentityToken string
	}
	var auths map[string]auth
	var err error
	if legacy {
		err = json.Unmarshal(data, &auths)
	} else {
		var config struct{ Auths map[string]auth }
		err = json.Unmarshal(data, &config)
		auths = config.Auths
	}
	if err != nil {
		return nil, fmt.Errorf("registry credentials: %w", err)
	}
	var list Credentials
	for scope, a := range auths {
		c := Credential{Scope: registryScope(scope), Username: a.Username, Password: a.Password, Token: a.IdentityToken}
		if a.Auth != "" {
			plain, err := base64.StdEncoding.DecodeString(a.Auth)
			if err != nil {
				return nil, fmt.Errorf("registry credentials for %s: auth is not base64: %w", scope, err)
			}
			c.Username, c.Password, _ = strings.Cut(string(plain), ":")
		}
		list = append(list, c)
	}
	return list, nil
}

// registryScope strips the scheme and the version path from a registry's name.
func registryScope(s string) string {
	s = strings.TrimPrefix(strings.TrimPrefix(s, "https://"), "http://")
	s = strings.TrimSuffix(s, "/")
	return strings.TrimSuffix(strings.TrimSuffix(s, "/v1"), "/v2")
}

// defaultRegistry is the registry of images whose name has none. Credential files name it with "index." before it.
var defaultRegistry = func() string {
	named, err := reference.ParseNormalizedNamed("image")
	if err != nil {
		panic(err)
	}
	return reference.Domain(named)
}()

// find returns the credentials of the longest scope that covers the image.
func (c Credentials) find(host, repository string) (Credential, bool) {
	var best Credential
	found := false
	for _, candidate := range c {
		scopeHost, path, _ := strings.Cut(candidate.Scope, "/")
		if scopeHost == "index."+defaultRegistry {
			scopeHost = defaultRegistry
		}
		covers := path == "" || repository == path || strings.HasPrefix(repository, path+"/")
		if scopeHost == host && covers && (!found || len(candidate.Scope) > len(best.Scope)) {
			best, found = candidate, true
		}
	}
	return best, found
}

// pullGroup lets many pods wait for one pull, and limits concurrent pulls.
type pullGroup struct {
	mu       sync.Mutex
	running  map[string]*pullCall
	slots    chan struct{}
	registry map[string]*places // by host; those that are empty are removed
}

// places are the pulls of one registry, so that a slow registry does not hold up the others.
type places struct {
	slots chan struct{}
	users int
}

type pullCall struct {
	done    chan struct{}
	err     error
	waiting int                     // pods; guarded by pullGroup.mu
	giveUp  context.CancelCauseFunc // called when none waits any more
}

func (g *pullGroup) init() {
	g.running, g.slots, g.registry = map[string]*pullCall{}, make(chan struct{}, maxPulls), map[string]*places{}
}

// enter waits until the limit of the registry, and then that of all registries, allows a pull.
func (g *pullGroup) enter(ctx context.Context, host string) (leave func(), err error) {
	g.mu.Lock()
	p := g.registry[host]
	if p == nil {
		p = &places{slots: make(chan struct{}, maxPullsPerRegistry)}
		g.registry[host] = p
	}
	p.users++
	g.mu.Unlock()
	forget := func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if p.users--; p.users == 0 {
			delete(g.registry, host)
		}
	}
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		forget()
		return nil, context.Cause(ctx)
	}
	select {
	case g.slots <- struct{}{}:
	case <-ctx.Done():
		<-p.slots
		forget()
		return nil, context.Cause(ctx)
	}
	return func() { <-g.slots; <-p.slots; forget() }, nil
}

// errNobodyWaits is the cause of cancelling a pull that no pod waits for.
var errNobodyWaits = errors.New("no pod waits for the image any more")

// Pull makes the image present: with always, its name is resolved again and what has changed is fetched; otherwise a
// present image stays as it is. Pods that pull the same image with the same credentials share one pull, which goes on
// until the last of them stops waiting.
func (r *Runtime) Pull(ctx context.Context, image string, always bool, creds Credentials) error {
	name, err := Normalize(image)
	if err != nil {
		return err
	}
	if !always {
		if exists, err := r.ImageExists(ctx, name); err == nil && exists {
			return nil
		}
	}
	key := fmt.Sprintf("%s %v", name, creds)
	r.pulls.mu.Lock()
	call := r.pulls.running[key]
	if call == nil {
		call = r.startPull(ctx, key, name, creds)
	}
	call.waiting++
	r.pulls.mu.Unlock()
	defer func() {
		r.pulls.mu.Lock()
		defer r.pulls.mu.Unlock()
		if call.waiting--; call.waiting > 0 {
			return
		}
		call.giveUp(errNobodyWaits)
		// A caller from now on starts a new pull rather than share the end of this one.
		if r.pulls.running[key] == call {
			delete(r.pulls.running, key)
		}
	}()
	select {
	case <-call.done:
		return call.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// startPull begins a pull that pods may share; r.pulls.mu is held.
func (r *Runtime) startPull(ctx context.Context, key, name string, creds Credentials) *pullCall {
	pulling, giveUp := context.WithCancelCause(r.ctx(context.WithoutCancel(ctx)))
	call := &pullCall{done: make(chan struct{}), giveUp: giveUp}
	r.pulls.running[key] = call
	go func() {
		defer giveUp(nil)
		call.err = r.pull(pulling, name, creds)
		r.pulls.mu.Lock()
		if r.pulls.running[key] == call {
			delete(r.pulls.running, key)
		}
		r.pulls.mu.Unlock()
		close(call.done)
	}()
	return call
}

func (r *Runtime) pull(ctx context.Context, name string, creds Credentials) error {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return err
	}
	from := newRegistry(named, creds)
	leave, err := r.pulls.enter(ctx, from.host)
	if err != nil {
		return err
	}
	defer leave()
	ctx, done, err := r.lease(ctx, "pull")
	if err != nil {
		return err
	}
	defer done()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go r.watchPull(ctx, from, stop)
	defer r.images.clear()
	resumed, err := r.fetch(ctx, name, from)
	if resumed {
		_, err = r.fetch(ctx, name, from)
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause // it says more than the error that followed from it
		}
		return fmt.Errorf("failed to pull and unpack image %q: %w", name, err)
	}
	return nil
}

// fetch pulls an image once. A pull that fails removes its incomplete parts, unless it was given up. resumed says that it
// had continued parts of an earlier pull: these may have caused the failure.
func (r *Runtime) fetch(ctx context.Context, name string, from *registry) (resumed bool, err error) {
	f := &fetched{began: time.Now()}
	_, err = r.client.Pull(ctx, name,
		containerd.WithResolver(from.resolver(ctx, r.cfg.HostsDir)),
		containerd.WithImageHandler(images.Handlers(sizes(), f.note())),
		containerd.WithPullUnpack,
		containerd.WithPullSnapshotter(r.cfg.Snapshotter),
	)
	if err != nil && ctx.Err() == nil {
		resumed = r.discardPartial(ctx, f)
	}
	return resumed, err
}

// watchPull ends a pull whose registry sends nothing more, or that is about to fill the disk: a layer's unpacked size is
// not known in advance.
func (r *Runtime) watchPull(ctx context.Context, from *registry, stop context.CancelCauseFunc) {
	folder, err := r.ImageFolder(ctx)
	if err != nil {
		slog.Warn("disk is not watched while an image is pulled", "err", err)
	}
	tick := time.NewTicker(pullWatch)
	defer tick.Stop()
	for {
		err := from.stalled(r.stall())
		if err == nil && folder != "" {
			err = diskFull(folder)
		}
		if err != nil {
			stop(err)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (r *Runtime) stall() time.Duration {
	if r.cfg.PullStall > 0 {
		return r.cfg.PullStall
	}
	return defaultStall
}

// ErrDiskFull means that an image does not fit.
var ErrDiskFull = errors.New("no space left on the disk of images")

// diskFull returns an error if the disk of images is nearly full: less than a twentieth free, or less than a gigabyte,
// whichever is less.
func diskFull(folder string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(folder, &st); err != nil {
		return fmt.Errorf("disk of images %s: %w", folder, err)
	}
	capacity, free := int64(st.Blocks)*st.Bsize, int64(st.Bavail)*st.Bsize
	if floor := min(capacity/20, 1<<30); free < floor {
		return fmt.Errorf("%w: %s has %d bytes free, and %d must stay free", ErrDiskFull, folder, free, floor)
	}
	if st.Files > 0 && st.Ffree < st.Files/50 {
		return fmt.Errorf("%w: %s has %d of %d inodes free", ErrDiskFull, folder, st.Ffree, st.Files)
	}
	return nil
}

// decompress accepts a plain or compressed tar stream.
func decompress(archive io.Reader) (io.Reader, error) {
	buffered := bufio.NewReader(archive)
	head, err := buffered.Peek(10)
	if err != nil && len(head) == 0 {
		return nil, fmt.Errorf("import: the archive is empty: %w", err)
	}
	if bytes.HasPrefix(head, []byte{0x1f, 0x8b}) || compression.DetectCompression(head) != compression.Uncompressed {
		plain, err := compression.DecompressStream(buffered)
		if err != nil {
			return nil, fmt.Errorf("import: %w", err)
		}
		return plain, nil
	}
	return buffered, nil
}
