package encryption_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"k8s.io/apiserver/pkg/storage/value"

	"github.com/skep-io/skep/controlplane/encryption"
	"github.com/skep-io/skep/controlplane/etcd"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/storage"
)

const (
	secretKey = "/registry/secrets/default/password"
	plaintext = "correct horse battery staple"
)

// key is one of 32 bytes, in base64.
func key(fill byte) string { return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{fill}, 32)) }

// provider is one of the configuration's, with named keys.
func provider(kind string, keys ...string) string {
	text := fmt.Sprintf("      - %s:\n          keys:\n", kind)
	for _, k := range keys {
		text += fmt.Sprintf("            - {name: key-%s, secret: %s}\n", k[:4], k)
	}
	return text
}

// configure writes a configuration for resources, as "secrets" or "*.*".
func configure(t *testing.T, path, resources string, providers ...string) {
	t.Helper()
	text := fmt.Sprintf("kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\nresources:\n  - resources: [%q]\n    providers:\n%s",
		resources, strings.Join(providers, ""))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func resources() map[string]schema.GroupResource {
	all := map[string]schema.GroupResource{}
	for _, k := range kinds.All() {
		all[k.Prefix()] = k.GroupResource()
	}
	return all
}

// open is what skepd does when it starts on an etcd; the registry runs until stop.
func open(t *testing.T, client *clientv3.Client, config string) (r *resource.Registry, p *encryption.Provider, stop func()) {
	t.Helper()
	var store storage.Interface = storage.NewEtcd(client)
	if config != "" {
		var err error
		if p, err = encryption.Open(t.Context(), config, false, resources(), "test"); err != nil {
			t.Fatal(err)
		}
		store = encryption.NewStore(store, p)
	}
	r = kinds.NewRegistry(store, kinds.Options{Encrypted: config != ""})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = r.Run(ctx) })
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(stop)
	if err := r.WaitForSync(ctx); err != nil {
		t.Fatal(err)
	}
	return r, p, stop
}

func newSecret() *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "password"}, Data: map[string][]byte{"p": []byte(plaintext)}}
}

// raw is what etcd holds.
func raw(t *testing.T, client *clientv3.Client, key string) []byte {
	t.Helper()
	resp, err := client.Get(t.Context(), key)
	if err != nil || len(resp.Kvs) != 1 {
		t.Fatalf("%s: %v, %v", key, resp, err)
	}
	return resp.Kvs[0].Value
}

// read reads the secret from the store and from the cache.
func read(t *testing.T, r *resource.Registry) {
	t.Helper()
	for _, revision := range []string{"", "0"} {
		obj, err := r.Get(t.Context(), kinds.Secrets, "default", "password", revision)
		if err != nil || string(obj.(*corev1.Secret).Data["p"]) != plaintext {
			t.Fatalf("the secret reads %v (%v)", obj, err)
		}
	}
}

func TestSecretsAreEncryptedInEtcd(t *testing.T) {
	server, err := etcd.Start(t.Context(), etcd.Config{DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	client := server.Client
	config := filepath.Join(t.TempDir(), "encryption.yaml")
	identity := "      - identity: {}\n"

	// Without a key, and with one that encrypts values written from now on.
	r, _, stop := open(t, client, "")
	for _, obj := range []resource.Object{&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, newSecret()} {
		kind := kinds.Secrets
		if obj.GetName() == "default" {
			kind = kinds.Namespaces
		}
		if _, err := r.Create(t.Context(), kind, obj, resource.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Contains(raw(t, client, secretKey), []byte(plaintext)) {
		t.Fatal("without a configuration the value is not plain")
	}
	stop()

	steps := []struct {
		name, prefix string
		providers    []string
	}{
		{"first key", "k8s:enc:aescbc:v1:key-", []string{provider("aescbc", key(1)), identity}},
		{"rotated, the old one still reads", "k8s:enc:aescbc:v1:key-", []string{provider("aescbc", key(2), key(1))}},
		{"another cipher", "k8s:enc:secretbox:v1:key-", []string{provider("secretbox", key(3)), provider("aescbc", key(2))}},
		{"and another", "k8s:enc:aesgcm:v1:key-", []string{provider("aesgcm", key(4)), provider("secretbox", key(3))}},
		{"and back to none", "k8s\x00", []string{identity, provider("aesgcm", key(4))}},
		{"wildcard", "k8s:enc:aescbc:v1:key-", []string{provider("aescbc", key(1)), identity}},
	}
	for _, step := range steps {
		covered := "secrets"
		if step.name == "wildcard" {
			covered = "*.*"
		}
		configure(t, config, covered, step.providers...)
		r, p, stop := open(t, client, config)
		read(t, r)
		before := raw(t, client, secretKey)
		// kubectl get secrets -o json | kubectl replace -f -
		obj, err := r.Get(t.Context(), kinds.Secrets, "default", "password", "")
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := r.Update(t.Context(), kinds.Secrets, "", obj.DeepCopyObject().(resource.Object), resource.UpdateOptions{}); err != nil && !apierrors.IsConflict(err) {
				t.Fatalf("%s: %v", step.name, err)
			}
		}
		stored := raw(t, client, secretKey)
		if !bytes.HasPrefix(stored, []byte(step.prefix)) || bytes.Equal(stored, before) {
			t.Errorf("%s: etcd holds %.60q, want it to begin with %q and to be written again", step.name, stored, step.prefix)
		}
		if strings.HasPrefix(step.prefix, "k8s:enc:") && bytes.Contains(stored, []byte(plaintext)) {
			t.Errorf("%s: the plaintext is in etcd", step.name)
		}
		stockReads(t, config, stored)
		if step.name == "wildcard" {
			doorReads(t, r, p, server)
		}
		read(t, r)
		stop()
	}

	// A file without the key that encrypted a value: no panic, no empty object, but an error that names the file.
	configure(t, config, "secrets", provider("aescbc", key(9)))
	r, _, _ = open(t, client, config)
	_, err = r.Get(t.Context(), kinds.Secrets, "default", "password", "")
	if !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), config) {
		t.Errorf("with a wrong key the secret reads %v, want an error that names %s", err, config)
	}
	// And without any file.
	r, _, _ = open(t, client, "")
	if _, err = r.Get(t.Context(), kinds.Secrets, "default", "password", ""); err == nil || !strings.Contains(err.Error(), "--encryption-provider-config") {
		t.Errorf("without a file the secret reads %v, want an error that names the flag", err)
	}
}

// stockReads decrypts what etcd holds with the transformer that kube-apiserver makes from the same file.
func stockReads(t *testing.T, config string, stored []byte) {
	t.Helper()
	loaded, err := encryptionconfig.LoadEncryptionConfig(t.Context(), config, false, "stock")
	if err != nil {
		t.Fatal(err)
	}
	transformer := encryptionconfig.StaticTransformers(loaded.Transformers).TransformerForResource(schema.GroupResource{Resource: "secrets"})
	plain, _, err := transformer.TransformFromStorage(t.Context(), stored, value.DefaultContext(secretKey))
	if err != nil || !bytes.Contains(plain, []byte(plaintext)) {
		t.Errorf("kube-apiserver's transformer reads %.60q (%v)", plain, err)
	}
}

// doorReads reads as cluster DNS does, which has no key.
func doorReads(t *testing.T, r *resource.Registry, p *encryption.Provider, server *etcd.Server) {
	t.Helper()
	const name = "/registry/namespaces/seen-by-dns"
	if _, err := r.Create(t.Context(), kinds.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "seen-by-dns"}}, resource.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if stored := raw(t, server.Client, name); !bytes.HasPrefix(stored, []byte("k8s:enc:")) {
		t.Errorf("the namespace is stored as %.40q", stored)
	}
	resp, err := p.Reader(server.Reader()).KV.Range(t.Context(), &pb.RangeRequest{Key: []byte(name)})
	if err != nil || len(resp.Kvs) != 1 || !bytes.HasPrefix(resp.Kvs[0].Value, []byte("k8s\x00")) {
		t.Errorf("DNS reads %v (%v)", resp, err)
	}
}

// A changed file is applied, and a broken one is not.
func TestConfigurationIsReadAgain(t *testing.T) {
	server, err := etcd.Start(t.Context(), etcd.Config{DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	config := filepath.Join(t.TempDir(), "encryption.yaml")
	configure(t, config, "secrets", provider("aescbc", key(1)))
	p, err := encryption.Open(t.Context(), config, true, resources(), "test")
	if err != nil {
		t.Fatal(err)
	}
	store := encryption.NewStore(storage.NewEtcd(server.Client), p)
	write := func() []byte {
		t.Helper()
		if _, err := store.Commit(t.Context(), nil, []storage.Op{{Key: secretKey, Value: []byte(plaintext)}}); err != nil {
			t.Fatal(err)
		}
		return raw(t, server.Client, secretKey)
	}
	write()
	calls := 0
	configure(t, config, "secrets", provider("secretbox", key(2)), provider("aescbc", key(1)))
	p.Refresh(t.Context(), func() { calls++ })
	if kv, err := store.Get(t.Context(), secretKey); err != nil || kv.Err != nil || string(kv.Value) != plaintext || !kv.Stale || calls != 1 {
		t.Errorf("after the change the old value reads %+v (%v), told %d times", kv, err, calls)
	}
	if stored := write(); !bytes.HasPrefix(stored, []byte("k8s:enc:secretbox:")) {
		t.Errorf("after the change %.40q is written", stored)
	}
	if err := os.WriteFile(config, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.Refresh(t.Context(), func() { calls++ })
	if stored := write(); !bytes.HasPrefix(stored, []byte("k8s:enc:secretbox:")) || calls != 1 {
		t.Errorf("with a broken file %.40q is written, told %d times", stored, calls)
	}
}
