package pod

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// objects watches exactly the ConfigMaps and Secrets that pods of this node use, with one watch per
// object, however many pods share it.
type objects struct {
	client  kubernetes.Interface
	changed func(podUIDs []string)

	mu      sync.Mutex
	ctx     context.Context
	watched map[objectKey]*watchedObject
	done    sync.WaitGroup
}

type objectKey struct{ resource, namespace, name string }

type watchedObject struct {
	users    map[string]bool
	informer cache.SharedIndexInformer
	stop     context.CancelFunc
}

const (
	configMaps = "configmaps"
	secrets    = "secrets"
)

func newObjects(client kubernetes.Interface, changed func([]string)) *objects {
	return &objects{client: client, changed: changed, watched: map[objectKey]*watchedObject{}}
}

func (o *objects) run(ctx context.Context) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ctx = ctx
}

func (o *objects) wait() { o.done.Wait() }

// use watches the objects that the pod names, and ends watches of those that it no longer names.
func (o *objects) use(pod *corev1.Pod) {
	want := references(pod)
	uid := string(pod.UID)
	o.mu.Lock()
	defer o.mu.Unlock()
	for key := range want {
		w := o.watched[key]
		if w == nil {
			w = o.watch(key)
			o.watched[key] = w
		}
		w.users[uid] = true
	}
	o.drop(uid, want)
}

// release ends the watches that only this pod needed.
func (o *objects) release(uid string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.drop(uid, nil)
}

func (o *objects) drop(uid string, keep map[objectKey]bool) {
	for key, w := range o.watched {
		if w.users[uid] && !keep[key] {
			delete(w.users, uid)
			if len(w.users) == 0 {
				w.stop()
				delete(o.watched, key)
			}
		}
	}
}

func (o *objects) watch(key objectKey) *watchedObject {
	var example runtime.Object = &corev1.ConfigMap{}
	if key.resource == secrets {
		example = &corev1.Secret{}
	}
	source := o.source(key)
	ctx, cancel := context.WithCancel(o.ctx)
	w := &watchedObject{users: map[string]bool{}, stop: cancel, informer: cache.NewSharedIndexInformer(source, example, 0, nil)}
	notify := func() {
		o.mu.Lock()
		uids := make([]string, 0, len(w.users))
		for uid := range w.users {
			uids = append(uids, uid)
		}
		o.mu.Unlock()
		o.changed(uids)
	}
	_, _ = w.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { notify() },
		UpdateFunc: func(any, any) { notify() },
		DeleteFunc: func(any) { notify() },
	})
	o.done.Add(1)
	go func() {
		defer o.done.Done()
		w.informer.Run(ctx.Done())
	}()
	return w
}

func (o *objects) source(key objectKey) cache.ListerWatcher {
	only := fields.OneTermEqualSelector("metadata.name", key.name).String()
	core := o.client.CoreV1()
	return cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			options.FieldSelector = only
			if key.resource == secrets {
				return core.Secrets(key.namespace).List(ctx, options)
			}
			return core.ConfigMaps(key.namespace).List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.FieldSelector = only
			if key.resource == secrets {
				return core.Secrets(key.namespace).Watch(ctx, options)
			}
			return core.ConfigMaps(key.namespace).Watch(ctx, options)
		},
	}, o.client)
}

// ConfigMap returns the watched object, or asks the API server.
func (o *objects) ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	obj, watched, err := o.get(objectKey{configMaps, namespace, name})
	if err != nil {
		return nil, err
	}
	if watched {
		return obj.(*corev1.ConfigMap), nil
	}
	return o.client.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
}

// Secret returns the watched object, or asks the API server.
func (o *objects) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	obj, watched, err := o.get(objectKey{secrets, namespace, name})
	if err != nil {
		return nil, err
	}
	if watched {
		return obj.(*corev1.Secret), nil
	}
	return o.client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (o *objects) get(key objectKey) (obj any, watched bool, err error) {
	o.mu.Lock()
	w := o.watched[key]
	o.mu.Unlock()
	// A watch that has just begun has no object yet; a request is quicker than waiting for it.
	if w == nil || !w.informer.HasSynced() {
		return nil, false, nil
	}
	obj, ok, err := w.informer.GetStore().GetByKey(key.namespace + "/" + key.name)
	if err != nil {
		return nil, true, err
	}
	if !ok {
		return nil, true, apierrors.NewNotFound(corev1.Resource(key.resource), key.name)
	}
	return obj, true, nil
}

// references are the objects that the pod's containers and volumes name.
func references(pod *corev1.Pod) map[objectKey]bool {
	refs := map[objectKey]bool{}
	add := func(resource, name string) {
		if name != "" {
			refs[objectKey{resource, pod.Namespace, name}] = true
		}
	}
	for _, vol := range pod.Spec.Volumes {
		if vol.ConfigMap != nil {
			add(configMaps, vol.ConfigMap.Name)
		}
		if vol.Secret != nil {
			add(secrets, vol.Secret.SecretName)
		}
		if vol.Projected == nil {
			continue
		}
		for _, source := range vol.Projected.Sources {
			if source.ConfigMap != nil {
				add(configMaps, source.ConfigMap.Name)
			}
			if source.Secret != nil {
				add(secrets, source.Secret.Name)
			}
		}
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, c := range list {
			for _, from := range c.EnvFrom {
				if from.ConfigMapRef != nil {
					add(configMaps, from.ConfigMapRef.Name)
				}
				if from.SecretRef != nil {
					add(secrets, from.SecretRef.Name)
				}
			}
			for _, env := range c.Env {
				if env.ValueFrom == nil {
					continue
				}
				if env.ValueFrom.ConfigMapKeyRef != nil {
					add(configMaps, env.ValueFrom.ConfigMapKeyRef.Name)
				}
				if env.ValueFrom.SecretKeyRef != nil {
					add(secrets, env.ValueFrom.SecretKeyRef.Name)
				}
			}
		}
	}
	return refs
}
