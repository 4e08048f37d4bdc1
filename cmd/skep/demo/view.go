package demo

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// view is the API's state from watches, with a signal for each change.
type view struct {
	factory informers.SharedInformerFactory
	changed chan struct{}
}

func watchCluster(ctx context.Context, client kubernetes.Interface) (*view, error) {
	v := &view{factory: informers.NewSharedInformerFactory(client, 0), changed: make(chan struct{}, 1)}
	ring := func(any) {
		select {
		case v.changed <- struct{}{}:
		default:
		}
	}
	for _, informer := range []cache.SharedIndexInformer{
		v.factory.Core().V1().Pods().Informer(), v.factory.Core().V1().Nodes().Informer(),
	} {
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: ring, UpdateFunc: func(_, now any) { ring(now) }, DeleteFunc: ring,
		}); err != nil {
			return nil, err
		}
	}
	v.factory.Start(ctx.Done())
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for kind, ok := range v.factory.WaitForCacheSync(wait.Done()) {
		if !ok {
			return nil, fmt.Errorf("could not read %v from the API within %s: is the control plane up? (skep cluster-info)", kind, patience)
		}
	}
	return v, nil
}

// await returns when the condition holds. It is checked again at each change from
// the watches; its last text is printed if time runs out.
func (v *view) await(ctx context.Context, limit time.Duration, what string, condition func() (bool, string)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		done, state := condition()
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			return fmt.Errorf("waited %s for %s in vain:\n%s", limit, what, state)
		case <-v.changed:
		}
	}
}

func (v *view) pods(selector string) []*corev1.Pod {
	parsed, err := labels.Parse(selector)
	if err != nil {
		panic(err) // the selectors are constants of this package
	}
	pods, err := v.factory.Core().V1().Pods().Lister().Pods(namespace).List(parsed)
	if err != nil {
		panic(err) // a lister over an in-memory index does not fail
	}
	sort.Slice(pods, func(i, j int) bool { return pods[i].Name < pods[j].Name })
	return pods
}

// ready lists pods that are ready and not terminating.
func (v *view) ready(selector string) []*corev1.Pod {
	var ready []*corev1.Pod
	for _, pod := range v.pods(selector) {
		if pod.DeletionTimestamp == nil && podReady(pod) {
			ready = append(ready, pod)
		}
	}
	return ready
}

func podReady(pod *corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

func (v *view) nodeReady(name string) bool {
	node, err := v.factory.Core().V1().Nodes().Lister().Get(name)
	if err != nil {
		return false
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

func (v *view) describe(selector string) string {
	var text strings.Builder
	for _, pod := range v.pods(selector) {
		fmt.Fprintf(&text, "      %s on %q: %s, ready %v", pod.Name, pod.Spec.NodeName, pod.Status.Phase, podReady(pod))
		if pod.DeletionTimestamp != nil {
			fmt.Fprintf(&text, ", being deleted since %s", pod.DeletionTimestamp.Format(metav1.RFC3339Micro))
		}
		for _, status := range pod.Status.ContainerStatuses {
			if waiting := status.State.Waiting; waiting != nil {
				fmt.Fprintf(&text, ", %s %s", waiting.Reason, waiting.Message)
			}
		}
		text.WriteByte('\n')
	}
	if text.Len() == 0 {
		return "      no pod " + selector
	}
	return text.String()
}
