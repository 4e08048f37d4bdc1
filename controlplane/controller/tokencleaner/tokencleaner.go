// Package tokencleaner deletes the Secrets of expired join tokens. It owns nothing else: an expired token is refused even before it is
// deleted.
package tokencleaner

import (
	"context"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/jointoken"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// Controller is the loop.
type Controller struct {
	registry *resource.Registry
	clock    clock.WithTicker
	queue    *controller.Queue[string]
}

// New makes the loop. It runs once.
func New(registry *resource.Registry, clock clock.WithTicker) *Controller {
	return &Controller{registry: registry, clock: clock, queue: controller.NewQueueOn[string]("tokencleaner", clock)}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	controller.Observe(ctx, &wg, c.registry, kinds.Secrets, func(_, cur *corev1.Secret, _ int64) {
		if cur != nil && cur.Type == corev1.SecretTypeBootstrapToken && cur.Namespace == metav1.NamespaceSystem {
			c.queue.Add(cur.Name)
		}
	})
	c.queue.Run(ctx, 1, c.sync)
	wg.Wait()
	return ctx.Err()
}

func (c *Controller) sync(ctx context.Context, name string) error {
	secret, err := resource.Get[*corev1.Secret](ctx, c.registry, kinds.Secrets, metav1.NamespaceSystem, name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	token, err := jointoken.Of(secret)
	if err != nil || token.Expires.IsZero() {
		return nil // it opens nothing, or never expires
	}
	if now := c.clock.Now(); !token.Expired(now) {
		c.queue.AddAfter(name, token.Expires.Sub(now)+time.Millisecond)
		return nil
	}
	uid, version := secret.UID, secret.ResourceVersion
	_, _, err = c.registry.Delete(ctx, kinds.Secrets, metav1.NamespaceSystem, name,
		&metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &version}})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err == nil {
		slog.Info("Join token deleted: it has expired", "id", token.ID, "expired", token.Expires)
	}
	return err
}
