package resource

import (
	"context"
	"errors"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/watchcache"
)

// Watch watches a namespace, or all of them if ns is empty. Without a resource
// version, and with "0", the present state comes first as Added events; with one
// the watch resumes right after it, or is refused with 410 Expired.
func (r *Registry) Watch(ctx context.Context, k *Kind, ns string, o WatchOptions) (*watchcache.Watcher, error) {
	s, err := k.selectorFor(ns, o.LabelSelector, o.FieldSelector)
	if err != nil {
		return nil, err
	}
	options := watchcache.WatchOptions{Bookmarks: o.AllowBookmarks, Trigger: s.trigger}
	if s.namespace != "" {
		options.Prefix = k.prefix(s.namespace)
	}
	if !s.everything() {
		options.Filter = s.matches
	}
	if err := r.startOf(ctx, k, o, &options); err != nil {
		return nil, err
	}
	if options.Initial {
		if err := r.complete(k, s); err != nil {
			return nil, err
		}
	}
	w, err := r.Cache(k).Watch(options)
	var gone *watchcache.GoneError
	switch {
	case errors.As(err, &gone):
		return nil, expired(err)
	case err != nil:
		return nil, StoreError(ctx, err)
	}
	return w, nil
}

// startOf sets where the watch begins, once the cache is fresh enough for it.
func (r *Registry) startOf(ctx context.Context, k *Kind, o WatchOptions, options *watchcache.WatchOptions) error {
	revision, err := ParseRevision(o.ResourceVersion)
	if err != nil {
		return err
	}
	if o.SendInitialEvents == nil {
		if o.ResourceVersionMatch != "" {
			return apierrors.NewBadRequest("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")
		}
		options.Initial, options.After = revision == 0, revision
		switch {
		case o.ResourceVersion == "":
			return r.WaitForStore(ctx, k)
		case revision == 0:
			return r.WaitUntil(ctx, k, 0)
		}
		// A future revision is no error: its events will follow.
		return r.Cache(k).WaitForSync(ctx)
	}
	if o.ResourceVersionMatch != metav1.ResourceVersionMatchNotOlderThan {
		return apierrors.NewBadRequest("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
	}
	if o.ResourceVersion == "" {
		err = r.WaitForStore(ctx, k)
	} else {
		err = r.WaitUntil(ctx, k, revision)
	}
	if err != nil {
		return err
	}
	if *o.SendInitialEvents {
		options.Initial, options.InitialEventsEnd = true, o.AllowBookmarks
		return nil
	}
	if options.After = revision; revision == 0 {
		options.After = r.Cache(k).Revision()
	}
	return nil
}
