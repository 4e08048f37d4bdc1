package resource

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/watchcache"
)

// List lists a namespace, or all of them if ns is empty, in order of the keys.
// Without a resource version it is linearizable.
func (r *Registry) List(ctx context.Context, k *Kind, ns string, o ListOptions) (*List, error) {
	s, err := k.selectorFor(ns, o.LabelSelector, o.FieldSelector)
	if err != nil {
		return nil, err
	}
	if o.Continue != "" {
		return r.listRest(ctx, k, s, o)
	}
	exact, err := r.reach(ctx, k, o)
	if err != nil {
		return nil, err
	}
	if err := r.complete(k, s); err != nil {
		return nil, err
	}
	if exact == 0 && o.Limit == 0 {
		if list := r.listDirectly(k, s); list != nil {
			return list, nil
		}
	}
	snapshot := r.Cache(k).Snapshot()
	if exact > 0 {
		if snapshot, err = r.Cache(k).SnapshotAt(exact); err != nil {
			return nil, expired(err)
		}
	}
	return k.page(snapshot, s, k.prefix(s.namespace), o.Limit), nil
}

// reach makes the cache as fresh as the options ask, and returns the revision if it must be exactly that one.
func (r *Registry) reach(ctx context.Context, k *Kind, o ListOptions) (exact int64, err error) {
	if o.ResourceVersion == "" {
		if o.ResourceVersionMatch != "" {
			return 0, apierrors.NewBadRequest("resourceVersionMatch is forbidden unless resourceVersion is provided")
		}
		return 0, r.WaitForStore(ctx, k)
	}
	revision, err := ParseRevision(o.ResourceVersion)
	if err != nil {
		return 0, err
	}
	if err := r.WaitUntil(ctx, k, revision); err != nil {
		return 0, err
	}
	switch o.ResourceVersionMatch {
	case metav1.ResourceVersionMatchExact:
		if revision == 0 {
			return 0, apierrors.NewBadRequest(`resourceVersionMatch "Exact" is forbidden for resourceVersion "0"`)
		}
		return revision, nil
	case metav1.ResourceVersionMatchNotOlderThan:
		return 0, nil
	case "":
		// A limit without a match has always meant exactly this revision.
		if o.Limit > 0 {
			return revision, nil
		}
		return 0, nil
	}
	return 0, apierrors.NewBadRequest(fmt.Sprintf("resourceVersionMatch %q is not supported", o.ResourceVersionMatch))
}

// listDirectly finds the objects by an index or by name, or returns nil if that can't be done.
func (r *Registry) listDirectly(k *Kind, s *selector) *List {
	list := &List{}
	var found []*watchcache.Object
	switch {
	case s.name != "" && (s.namespace != "" || !k.Namespaced):
		snapshot := r.Cache(k).Snapshot()
		list.Revision = snapshot.Revision
		if o, ok := snapshot.Get(k.Key(s.namespace, s.name)); ok {
			found = []*watchcache.Object{o}
		}
	case s.trigger != nil && k.Indexes[s.trigger.Index] != nil:
		found, list.Revision = r.Cache(k).IndexAt(s.trigger.Index, s.trigger.Value)
	default:
		return nil
	}
	prefix := k.prefix(s.namespace)
	list.Objects = found[:0]
	for _, o := range found {
		if strings.HasPrefix(o.Key, prefix) && s.matches(o) {
			list.Objects = append(list.Objects, o)
		}
	}
	return list
}

// page lists from a key on, up to limit objects if that is not 0.
func (k *Kind) page(snapshot *watchcache.Snapshot, s *selector, from string, limit int64) *List {
	list := &List{Revision: snapshot.Revision}
	prefix, last, remaining := k.prefix(s.namespace), "", int64(0)
	snapshot.Ascend(prefix, from, func(o *watchcache.Object) bool {
		switch {
		case !s.matches(o):
		case limit <= 0 || int64(len(list.Objects)) < limit:
			list.Objects = append(list.Objects, o)
			last = o.Key
		default:
			remaining++
			// How many remain is returned only where counting them needs no filter.
			return s.everything()
		}
		return true
	})
	if remaining > 0 {
		list.Continue = encodeContinue(snapshot.Revision, strings.TrimPrefix(last, prefix)+"\x00")
		if s.everything() {
			list.Remaining = &remaining
		}
	}
	return list
}

// listRest continues a list at the revision where it began.
func (r *Registry) listRest(ctx context.Context, k *Kind, s *selector, o ListOptions) (*List, error) {
	if o.ResourceVersion != "" && o.ResourceVersion != "0" {
		return nil, apierrors.NewBadRequest("specifying resource version is not allowed when using continue")
	}
	token, err := decodeContinue(o.Continue)
	if err != nil {
		return nil, err
	}
	from := k.prefix(s.namespace) + token.Start
	if token.Revision < 0 {
		if err := r.WaitForStore(ctx, k); err != nil {
			return nil, err
		}
		if err := r.complete(k, s); err != nil {
			return nil, err
		}
		return k.page(r.Cache(k).Snapshot(), s, from, o.Limit), nil
	}
	if err := r.WaitUntil(ctx, k, token.Revision); err != nil {
		return nil, err
	}
	snapshot, err := r.Cache(k).SnapshotAt(token.Revision)
	var gone *watchcache.GoneError
	if errors.As(err, &gone) {
		return nil, continueExpired(token.Start)
	}
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return k.page(snapshot, s, from, o.Limit), nil
}

// continueToken has Kubernetes' form. A negative revision means the current state.
type continueToken struct {
	Version  string `json:"v"`
	Revision int64  `json:"rv"`
	Start    string `json:"start"`
}

const continueVersion = "meta.k8s.io/v1"

func encodeContinue(revision int64, start string) string {
	data, err := json.Marshal(continueToken{Version: continueVersion, Revision: revision, Start: start})
	if err != nil {
		panic(err) // a struct of strings and numbers can be marshalled
	}
	return base64.RawURLEncoding.EncodeToString(data)
}

func decodeContinue(s string) (continueToken, error) {
	var token continueToken
	data, err := base64.RawURLEncoding.DecodeString(s)
	if err == nil {
		err = json.Unmarshal(data, &token)
	}
	if err == nil && (token.Version != continueVersion || token.Revision == 0 || token.Start == "") {
		err = errors.New("not one that this server gave")
	}
	if err == nil && strings.Contains("/"+token.Start, "/../") {
		err = errors.New("it leads out of the list")
	}
	if err != nil {
		return token, apierrors.NewBadRequest(fmt.Sprintf("continue key is not valid: %v", err))
	}
	return token, nil
}

// continueExpired makes a 410, with a token for clients that prefer the rest as it is now
// to starting again.
func continueExpired(start string) error {
	err := apierrors.NewResourceExpired("The provided continue parameter is too old to display a consistent list result. " +
		"You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. " +
		"Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.")
	err.ErrStatus.ListMeta.Continue = encodeContinue(-1, start)
	return err
}
