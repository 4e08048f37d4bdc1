// Package serviceaccount creates in every namespace what pods rely on: the service
// account "default" and the config map kube-root-ca.crt. It creates them again if they
// are deleted, and owns nothing else of either kind.
package serviceaccount

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

const (
	// RootCAConfigMap is the config map in every namespace that holds the cluster's CA.
	RootCAConfigMap = "kube-root-ca.crt"
	// RootCAKey is the key in it.
	RootCAKey = "ca.crt"

	defaultAccount  = "default"
	descriptionKey  = "kubernetes.io/description"
	descriptionText = "Contains a CA bundle that can be used to verify the API server of the cluster, for example at the address https://kubernetes.default.svc."
	workers         = 4
)

// Controller is the loop.
type Controller struct {
	registry *resource.Registry
	ca       func() []byte
	queue    *controller.Queue[string]
}

// Renewed queues a write of the CA to every namespace. It may be called at any time, from any goroutine.
func (c *Controller) Renewed() {
	for _, ns := range resource.ListAs[*corev1.Namespace](c.registry, kinds.Namespaces, "", nil) {
		c.queue.Add(ns.Name)
	}
}

// New makes the loop; ca returns the PEM of the cluster's CA. It runs once.
func New(registry *resource.Registry, ca func() []byte) *Controller {
	return &Controller{registry: registry, ca: ca, queue: controller.NewQueue[string]("serviceaccount")}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	controller.Observe(ctx, &wg, c.registry, kinds.ServiceAccounts, func(old, cur *corev1.ServiceAccount, _ int64) {
		if cur == nil && old.Name == defaultAccount {
			c.queue.Add(old.Namespace)
		}
	})
	controller.Observe(ctx, &wg, c.registry, kinds.ConfigMaps, func(old, cur *corev1.ConfigMap, _ int64) {
		if cur != nil && cur.Name == RootCAConfigMap || old != nil && old.Name == RootCAConfigMap {
			c.queue.Add(namespaceOf(old, cur))
		}
	})
	controller.Observe(ctx, &wg, c.registry, kinds.Namespaces, func(_, cur *corev1.Namespace, _ int64) {
		if cur != nil {
			c.queue.Add(cur.Name)
		}
	})
	c.queue.Run(ctx, workers, c.sync)
	wg.Wait()
	return ctx.Err()
}

func namespaceOf(old, cur *corev1.ConfigMap) string {
	if cur != nil {
		return cur.Namespace
	}
	return old.Namespace
}

func (c *Controller) sync(ctx context.Context, name string) error {
	ns, err := resource.Get[*corev1.Namespace](ctx, c.registry, kinds.Namespaces, "", name)
	if apierrors.IsNotFound(err) || err == nil && (ns.DeletionTimestamp != nil || ns.Status.Phase == corev1.NamespaceTerminating) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := c.account(ctx, name); err != nil {
		return err
	}
	return c.rootCA(ctx, name)
}

func (c *Controller) account(ctx context.Context, namespace string) error {
	_, err := resource.Get[*corev1.ServiceAccount](ctx, c.registry, kinds.ServiceAccounts, namespace, defaultAccount)
	if !apierrors.IsNotFound(err) {
		return err
	}
	_, err = c.registry.Create(ctx, kinds.ServiceAccounts, &corev1.ServiceAccount{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: defaultAccount},
	}, resource.CreateOptions{})
	return ignoreSettled(err)
}

func (c *Controller) rootCA(ctx context.Context, namespace string) error {
	want := string(c.ca())
	have, err := resource.Get[*corev1.ConfigMap](ctx, c.registry, kinds.ConfigMaps, namespace, RootCAConfigMap)
	if apierrors.IsNotFound(err) {
		_, err = c.registry.Create(ctx, kinds.ConfigMaps, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: namespace, Name: RootCAConfigMap,
				Annotations: map[string]string{descriptionKey: descriptionText},
			},
			Data: map[string]string{RootCAKey: want},
		}, resource.CreateOptions{})
		return ignoreSettled(err)
	}
	if err != nil || len(have.Data) == 1 && have.Data[RootCAKey] == want {
		return err
	}
	_, err = c.registry.Modify(ctx, kinds.ConfigMaps, "", namespace, RootCAConfigMap, resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		cm := current.(*corev1.ConfigMap).DeepCopy()
		cm.ResourceVersion = ""
		cm.Data = map[string]string{RootCAKey: want}
		return cm, nil
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// ignoreSettled drops errors that mean that nothing remains to be done: the object exists already, or the namespace is being deleted.
func ignoreSettled(err error) error {
	if apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	return err
}
