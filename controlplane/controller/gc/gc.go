// Package gc deletes what belongs to owners that do not exist any more, releases
// the dependents of an orphaning deletion, and finishes foreground deletions. It
// owns the finalizers "orphan" and "foregroundDeletion". It never deletes an object
// whose owner it cannot prove to be absent: absence is asked of the store, not of a
// cache.
package gc

import (
	"context"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/resource"
)

const workers = 8

// item names one object of any kind.
type item struct {
	kind *resource.Kind
	key  controller.Key
	uid  types.UID
}

// Controller is the garbage collector.
type Controller struct {
	registry *resource.Registry
	// dependents have owners to be looked at; owners are being deleted and wait for
	// their dependents.
	dependents *controller.Queue[item]
	owners     *controller.Queue[item]

	mu    sync.Mutex
	owned map[types.UID]map[item]struct{} // by the owner's UID
}

// New makes the loop. It runs once.
func New(registry *resource.Registry) *Controller {
	return &Controller{
		registry:   registry,
		dependents: controller.NewQueue[item]("garbage collection"),
		owners:     controller.NewQueue[item]("dependents' deletion"),
		owned:      map[types.UID]map[item]struct{}{},
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	controller.ObserveKinds(ctx, &wg, c.registry, func(ctx context.Context, k *resource.Kind) {
		// Objects that expire, such as events, have no owners, and there are too many of them to watch.
		if k.TTL == 0 {
			controller.Observe(ctx, &wg, c.registry, k, func(old, cur resource.Object, _ int64) { c.changed(k, old, cur) })
		}
	})
	wg.Go(func() { c.dependents.Run(ctx, workers, c.syncDependent) })
	wg.Go(func() { c.owners.Run(ctx, workers, c.syncOwner) })
	wg.Wait()
	return ctx.Err()
}

func itemOf(k *resource.Kind, obj resource.Object) item {
	return item{kind: k, key: controller.KeyOf(obj), uid: obj.GetUID()}
}

// changed updates the index of dependents and queues the items that the change concerns.
func (c *Controller) changed(k *resource.Kind, old, cur resource.Object) {
	if old != nil && cur != nil && old.GetUID() != cur.GetUID() {
		c.changed(k, old, nil)
		old = nil
	}
	c.index(k, old, cur)
	if cur == nil {
		// Its dependents have lost an owner, and its owners have one dependent fewer to wait for.
		c.addDependents(old.GetUID())
		c.addOwners(old)
		return
	}
	it := itemOf(k, cur)
	if len(cur.GetOwnerReferences()) > 0 {
		c.dependents.Add(it)
	}
	if old != nil && len(old.GetOwnerReferences()) > len(cur.GetOwnerReferences()) {
		c.addOwners(old)
	}
	if cur.GetDeletionTimestamp() != nil && waitsForDependents(cur) {
		c.owners.Add(it)
	}
}

func (c *Controller) index(k *resource.Kind, old, cur resource.Object) {
	if (old == nil || len(old.GetOwnerReferences()) == 0) && (cur == nil || len(cur.GetOwnerReferences()) == 0) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old != nil {
		it := itemOf(k, old)
		for _, ref := range old.GetOwnerReferences() {
			delete(c.owned[ref.UID], it)
			if len(c.owned[ref.UID]) == 0 {
				delete(c.owned, ref.UID)
			}
		}
	}
	if cur == nil {
		return
	}
	it := itemOf(k, cur)
	for _, ref := range cur.GetOwnerReferences() {
		if c.owned[ref.UID] == nil {
			c.owned[ref.UID] = map[item]struct{}{}
		}
		c.owned[ref.UID][it] = struct{}{}
	}
}

// dependentsOf returns what names uid as an owner.
func (c *Controller) dependentsOf(uid types.UID) []item {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]item, 0, len(c.owned[uid]))
	for it := range c.owned[uid] {
		list = append(list, it)
	}
	return list
}

func (c *Controller) addDependents(owner types.UID) {
	for _, it := range c.dependentsOf(owner) {
		c.dependents.Add(it)
	}
}

// addOwners queues the owners of an object that are being deleted and may wait for it.
func (c *Controller) addOwners(obj resource.Object) {
	for _, ref := range obj.GetOwnerReferences() {
		if k, ok := c.kindOf(ref.APIVersion, ref.Kind); ok {
			key := controller.Key{Name: ref.Name}
			if k.Namespaced {
				key.Namespace = obj.GetNamespace()
			}
			c.owners.Add(item{kind: k, key: key, uid: ref.UID})
		}
	}
}
