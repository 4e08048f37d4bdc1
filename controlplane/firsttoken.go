package controlplane

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/skep-io/skep/controlplane/jointoken"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/pki"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/storage"
)

// firstTokenKey exists once the token for the cluster's first nodes has been made.
const firstTokenKey = "/skep/first-join-token"

// ensureFirstToken writes a join token for the cluster's first nodes to a file, once: it expires as other tokens do, and `skep token
// create` makes further ones. A token of earlier versions, which never expired, is replaced in the same way.
func ensureFirstToken(ctx context.Context, registry *resource.Registry, authority *pki.PKI) error {
	_, err := registry.Store().Get(ctx, firstTokenKey)
	if err == nil {
		return refreshFirstToken(authority)
	}
	if !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	text, err := jointoken.New(authority.CA())
	if err != nil {
		return err
	}
	token := jointoken.Token{
		ID: text.ID, Secret: text.Secret, Description: "For the first nodes, made at skepd's first start.",
		Expires: time.Now().Add(jointoken.DefaultTTL), Authentication: true,
	}
	if _, err := registry.Create(ctx, kinds.Secrets, token.Object(), resource.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	if err := authority.WriteToken(text.String()); err != nil {
		return err
	}
	_, err = registry.Store().Commit(ctx, nil, []storage.Op{{Key: firstTokenKey, Value: []byte(text.ID)}})
	return err
}

// keepFirstToken rewrites the first token's file when the authority's certificate is renewed.
func keepFirstToken(authority *pki.PKI) {
	authority.OnRenewal(func() {
		if err := refreshFirstToken(authority); err != nil {
			slog.Error("The first join token names the previous certificate of the authority: create another with skep token create", "path", authority.TokenPath(), "err", err)
		}
	})
}

// refreshFirstToken writes the hash of the authority's current certificate into the file.
func refreshFirstToken(authority *pki.PKI) error {
	data, err := os.ReadFile(authority.TokenPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil // somebody has removed it
	}
	if err != nil {
		return err
	}
	text, err := jointoken.Parse(string(data))
	if err != nil {
		return nil
	}
	hash, err := jointoken.Hash(authority.CA())
	if err != nil || hash == text.CAHash {
		return err
	}
	text.CAHash = hash
	return authority.WriteToken(text.String())
}
