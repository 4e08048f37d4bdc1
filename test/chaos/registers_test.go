package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/test/chaos/invariant"
)

const (
	writers = 6
	keys    = 6
	// Others keys are used after so long: what is checked at a time stays small.
	epochLength = 30 * time.Second
	// answerWithin is how long a client waits. What it has asked for may be carried out later.
	answerWithin = 3 * time.Second
	pace         = 60 * time.Millisecond
	markerName   = "marker" // the last object that is written
)

// writeRegisters has clients read and write ConfigMaps, each through a server chosen at random.
func (r *run) writeRegisters(ctx context.Context, load *sync.WaitGroup) {
	began := time.Now()
	for client := range writers {
		load.Go(func() {
			w := &writer{r: r, client: client, random: rand.New(rand.NewPCG(*seed, uint64(client))), known: map[string]*corev1.ConfigMap{}}
			for ctx.Err() == nil {
				w.operate(ctx, fmt.Sprintf("r-%d-%d", time.Since(began)/epochLength, w.random.IntN(keys)))
				sleep(ctx, pace)
			}
		})
	}
}

type writer struct {
	r      *run
	client int
	random *rand.Rand
	wrote  int
	known  map[string]*corev1.ConfigMap // by key: what it last read or wrote
}

// operate does one operation on a key and records it.
func (w *writer) operate(ctx context.Context, key string) {
	server := w.random.IntN(len(w.r.apis))
	api := w.r.apis[server].CoreV1().ConfigMaps(namespace)
	asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerWithin)
	defer cancel()
	o := invariant.Operation{Client: w.client, Key: key, AnsweredBy: fmt.Sprintf("server %d", server+1)}
	var have *corev1.ConfigMap
	var err error
	known := w.known[key]
	choice := w.random.IntN(10)
	w.wrote++
	next := fmt.Sprintf("%d.%d", w.client, w.wrote)
	o.Call = time.Now()
	switch {
	case choice < 3:
		o.Op = invariant.Read
		have, err = api.Get(asking, key, metav1.GetOptions{})
	case choice < 4:
		o.Op = invariant.Read
		var list *corev1.ConfigMapList
		if list, err = api.List(asking, metav1.ListOptions{LabelSelector: "key=" + key}); err == nil {
			if len(list.Items) == 1 {
				have = &list.Items[0]
			} else {
				have = &corev1.ConfigMap{}
			}
		}
	case known == nil:
		o.Op, o.Value = invariant.Swap, next
		have, err = api.Create(asking, register(key, next), metav1.CreateOptions{})
	case choice < 7:
		o.Op, o.Value = invariant.Write, next
		have, err = api.Update(asking, register(key, next), metav1.UpdateOptions{})
	default:
		o.Op, o.Before, o.Value = invariant.Swap, known.Data["value"], next
		change := register(key, next)
		change.ResourceVersion = known.ResourceVersion
		have, err = api.Update(asking, change, metav1.UpdateOptions{})
	}
	returned := time.Now()
	switch {
	case err == nil:
		o.Return = returned
		if o.Op == invariant.Read {
			o.Value = have.Data["value"]
		} else {
			w.r.acknowledge(have.ResourceVersion)
		}
		if have.Name != "" {
			w.known[key] = have
		}
	case o.Op == invariant.Read && apierrors.IsNotFound(err):
		o.Return = returned
	case o.Op == invariant.Read || refused(err):
		if apierrors.IsAlreadyExists(err) {
			w.known[key] = register(key, "") // an update of it needs no revision
			w.known[key].ResourceVersion = "1"
		}
		return
	}
	w.r.registers.Add(o)
}

func register(key, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: key, Labels: map[string]string{"key": key}}, Data: map[string]string{"value": value}}
}

// refused says that a request was certainly not carried out.
func refused(err error) bool {
	var op *net.OpError
	return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) || apierrors.IsTooManyRequests(err) ||
		errors.As(err, &op) && op.Op == "dial"
}

func (r *run) acknowledge(revision string) {
	n, err := strconv.ParseUint(revision, 10, 64)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.acknowledged = append(r.acknowledged, n)
	}
}

// watchRegisters follows the registers at each server, each watch at that server alone.
func (r *run) watchRegisters(ctx context.Context, load *sync.WaitGroup) {
	for i := range r.servers {
		w := &invariant.Events{Name: fmt.Sprintf("at server %d", i+1)}
		r.watches = append(r.watches, w)
		load.Go(func() {
			f := follower{
				relist: func(ctx context.Context) (string, error) {
					list, err := r.apis[i].CoreV1().ConfigMaps(namespace).List(ctx, metav1.ListOptions{Limit: 1})
					if err != nil {
						return "", err
					}
					if from, err := strconv.ParseUint(list.ResourceVersion, 10, 64); err == nil && w.Last() > 0 {
						w.Gap(w.Last(), from)
					}
					return list.ResourceVersion, nil
				},
				watch: r.apis[i].CoreV1().ConfigMaps(namespace).Watch,
				see: func(_ bool, meta metav1.Object, _ any) {
					if revision, err := strconv.ParseUint(meta.GetResourceVersion(), 10, 64); err == nil {
						w.Add(revision)
					}
				},
			}
			f.run(ctx)
		})
	}
}

// finishWatches waits until every watch has received an object that is written after all else.
func (r *run) finishWatches(ctx context.Context) {
	r.Helper()
	var marker *corev1.ConfigMap
	r.until(ctx, "the last write", func() (err error) {
		marker, err = r.apis[0].CoreV1().ConfigMaps(namespace).Create(ctx, register(markerName, "last"), metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			marker, err = r.apis[0].CoreV1().ConfigMaps(namespace).Get(ctx, markerName, metav1.GetOptions{})
		}
		return err
	})
	last, err := strconv.ParseUint(marker.ResourceVersion, 10, 64)
	if err != nil {
		r.Fatal(err)
	}
	for _, w := range r.watches {
		r.until(ctx, "the last event of the watch "+w.Name, func() error {
			if at := w.Last(); at < last {
				return fmt.Errorf("it is at revision %d, the last write has %d", at, last)
			}
			return nil
		})
		if gaps := w.Gaps(); gaps > 0 {
			r.note("the watch %s had to list again %d times", w.Name, gaps)
		}
	}
}
