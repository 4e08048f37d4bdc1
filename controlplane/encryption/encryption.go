// Package encryption encrypts what is stored in etcd, as the file of
// --encryption-provider-config says: with kube-apiserver's own transformers, so
// that either reads what the other wrote. It owns which key encrypts and which decrypt.
// It works below storage.Interface: caches, kinds and loops do not depend on it.
package encryption

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"k8s.io/apiserver/pkg/storage/value"

	"github.com/skep-io/skep/controlplane/storage"
)

// reloadEvery is how often the file is checked for changes, if it is to be reloaded.
const reloadEvery = 10 * time.Second

var reloads = promauto.NewCounterVec(prometheus.CounterOpts{
	Name: "skep_encryption_config_reloads_total",
	Help: "Times that a changed encryption configuration was read, by status; after a failure the previous one stays in use.",
}, []string{"result"})

// Provider holds the configuration in use.
type Provider struct {
	path       string
	reload     bool
	identity   string
	byPrefix   map[string]schema.GroupResource // of keys
	configured atomic.Pointer[configured]
}

// configured is one version of the file.
type configured struct {
	transformers encryptionconfig.StaticTransformers
	hash         string
	grace        time.Duration
	stop         context.CancelFunc
}

// Open reads the configuration at path. resources are all that are stored, by the prefix of their keys; identity names this server to KMS plugins.
func Open(ctx context.Context, path string, reload bool, resources map[string]schema.GroupResource, identity string) (*Provider, error) {
	p := &Provider{path: path, reload: reload, identity: identity, byPrefix: resources}
	c, err := p.load(ctx)
	if err != nil {
		return nil, err
	}
	p.configured.Store(c)
	return p, nil
}

func (p *Provider) load(ctx context.Context) (*configured, error) {
	if _, err := os.Stat(p.path); err != nil {
		return nil, fmt.Errorf("--encryption-provider-config: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	config, err := encryptionconfig.LoadEncryptionConfig(ctx, p.path, p.reload, p.identity)
	if err != nil {
		stop()
		return nil, fmt.Errorf("--encryption-provider-config %s: %w", p.path, err)
	}
	return &configured{transformers: config.Transformers, hash: config.EncryptionFileContentHash, grace: config.KMSCloseGracePeriod, stop: stop}, nil
}

// Run reloads the file whenever it changes, if Open was called with reload, and then calls changed, until ctx ends.
func (p *Provider) Run(ctx context.Context, changed func()) error {
	defer func() { p.configured.Load().stop() }()
	if !p.reload {
		<-ctx.Done()
		return ctx.Err()
	}
	ticker := time.NewTicker(reloadEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
			p.Refresh(ctx, changed)
		}
	}
}

// Refresh applies a changed file; one that cannot be used is logged and not applied.
func (p *Provider) Refresh(ctx context.Context, changed func()) {
	old := p.configured.Load()
	hash, err := encryptionconfig.GetEncryptionConfigHash(p.path)
	if err == nil && hash == old.hash {
		return
	}
	var next *configured
	if err == nil {
		next, err = p.load(context.WithoutCancel(ctx))
	}
	if err != nil {
		reloads.WithLabelValues("failure").Inc()
		slog.Error("Encryption configuration cannot be read again; the previous one stays in use", "path", p.path, "err", err)
		return
	}
	p.configured.Store(next)
	// Requests that have begun may still call the KMS plugins of the old configuration.
	time.AfterFunc(old.grace, old.stop)
	reloads.WithLabelValues("success").Inc()
	slog.Info("Encryption configuration read again", "path", p.path)
	changed()
}

// transformer encrypts and decrypts a key's value; nil for a key that holds no object.
func (p *Provider) transformer(key string) value.Transformer {
	rest, ok := strings.CutPrefix(key, storage.Root)
	if !ok {
		return nil
	}
	// A resource's prefix has one part, or two.
	end := 0
	for range 2 {
		next := strings.IndexByte(rest[end:], '/')
		if next < 0 {
			break
		}
		end += next + 1
		if gr, ok := p.byPrefix[storage.Root+rest[:end]]; ok {
			return p.configured.Load().transformers.TransformerForResource(gr)
		}
	}
	// Kinds that are added at run time have GROUP/RESOURCE, and no resource of Kubernetes' own has a dot in its name.
	parts := strings.SplitN(rest, "/", 3)
	if len(parts) == 3 && strings.Contains(parts[0], ".") {
		return p.configured.Load().transformers.TransformerForResource(schema.GroupResource{Group: parts[0], Resource: parts[1]})
	}
	return nil
}

// decrypt returns a stored value in plain form, and whether it would be encrypted differently now.
func (p *Provider) decrypt(ctx context.Context, key string, stored []byte, revision int64) (plain []byte, stale bool, err error) {
	t := p.transformer(key)
	if t == nil {
		return stored, false, nil
	}
	plain, stale, err = t.TransformFromStorage(ctx, stored, value.DefaultContext(key))
	if err != nil {
		return nil, false, fmt.Errorf("data from the storage is not transformable revision=%d: %w (no provider in %s decrypts it: has its key been taken out?)", revision, err, p.path)
	}
	return plain, stale, nil
}

func (p *Provider) encrypt(ctx context.Context, key string, plain []byte) ([]byte, error) {
	t := p.transformer(key)
	if t == nil {
		return plain, nil
	}
	stored, err := t.TransformToStorage(ctx, plain, value.DefaultContext(key))
	if err != nil {
		return nil, fmt.Errorf("encrypt %s: %w", key, err)
	}
	return stored, nil
}
