package runtime

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	dockerconfig "github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/distribution/reference"
)

// maxPulls bounds the images pulled at a time; each pull fetches a few
// layers in parallel itself.
const maxPulls = 4

// Credential opens one registry, or a part of it.
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

// registryScope strips what people put around a registry's name: the scheme
// and the version path.
func registryScope(s string) string {
	s = strings.TrimPrefix(strings.TrimPrefix(s, "https://"), "http://")
	s = strings.TrimSuffix(s, "/")
	return strings.TrimSuffix(strings.TrimSuffix(s, "/v1"), "/v2")
}

// defaultRegistry is where images come from whose name says no registry. Files of
// credentials know it with "index." before it.
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

// pullGroup lets many pods wait for one pull.
type pullGroup struct {
	mu      sync.Mutex
	running map[string]*pullCall
	slots   chan struct{}
}

type pullCall struct {
	done chan struct{}
	err  error
}

func (g *pullGroup) init() {
	g.running, g.slots = map[string]*pullCall{}, make(chan struct{}, maxPulls)
}

// Pull makes the image present: with always, its name is resolved again and
// whatever changed is fetched; otherwise a present image is left as it is.
// Pods that pull the same image with the same credentials share one pull,
// which goes on although one of them is gone.
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
	call, running := r.pulls.running[key]
	if !running {
		call = &pullCall{done: make(chan struct{})}
		r.pulls.running[key] = call
		go func() {
			r.pulls.slots <- struct{}{}
			call.err = r.pull(r.ctx(context.WithoutCancel(ctx)), name, creds)
			<-r.pulls.slots
			r.pulls.mu.Lock()
			delete(r.pulls.running, key)
			r.pulls.mu.Unlock()
			close(call.done)
		}()
	}
	r.pulls.mu.Unlock()
	select {
	case <-call.done:
		return call.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *Runtime) pull(ctx context.Context, name string, creds Credentials) error {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return err
	}
	credentials := func(host string) (string, string, error) {
		c, _ := creds.find(reference.Domain(named), reference.Path(named))
		if c.Token != "" {
			return "", c.Token, nil
		}
		return c.Username, c.Password, nil
	}
	resolver := docker.NewResolver(docker.ResolverOptions{
		Hosts: dockerconfig.ConfigureHosts(ctx, dockerconfig.HostOptions{
			HostDir:     dockerconfig.HostDirFromRoot(r.cfg.HostsDir),
			Credentials: credentials,
		}),
	})
	defer r.images.clear()
	if _, err := r.client.Pull(ctx, name,
		containerd.WithResolver(resolver),
		containerd.WithPullUnpack,
		containerd.WithPullSnapshotter(r.cfg.Snapshotter),
	); err != nil {
		return fmt.Errorf("failed to pull and unpack image %q: %w", name, err)
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
