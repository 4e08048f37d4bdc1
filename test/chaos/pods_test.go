package chaos

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/cmd/skep/cluster"
	"github.com/skep-io/skep/controlplane/servicespec"
	"github.com/skep-io/skep/test/chaos/invariant"
)

const (
	webReplicas = 6
	identities  = 3
	// lingering is how long a pod still answers after its drain: a host whose maps still have it would reach it.
	lingering = 2
)

// podSpec is of a pod that answers with its UID.
func podSpec(lifecycle *corev1.Lifecycle) corev1.PodSpec {
	return corev1.PodSpec{
		TerminationGracePeriodSeconds: ptr.To(int64(6)),
		Containers: []corev1.Container{{
			Name: "c", Image: "skep/echo:dev", ImagePullPolicy: corev1.PullIfNotPresent, Lifecycle: lifecycle,
			Env: []corev1.EnvVar{{Name: "POD_NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.uid"}}}},
		}},
	}
}

// web is the service of the load, and the Deployment behind it.
func web() (*corev1.Service, *appsv1.Deployment) {
	labels := map[string]string{"app": "web"}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{
		Selector: labels, Ports: []corev1.ServicePort{{Port: 7000, TargetPort: intstr.FromInt32(7000)}},
	}}
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.DeploymentSpec{
		Replicas: ptr.To(int32(webReplicas)), Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels},
			Spec:       podSpec(&corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: lingering}}}),
		},
	}}
	return service, deployment
}

// startLoad makes the objects of the load and starts what uses and watches them, until ctx ends. Pods are deleted until disturbed ends.
func (r *run) startLoad(ctx, disturbed context.Context, load *sync.WaitGroup) {
	r.Helper()
	api := r.apis[0]
	if _, err := api.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		r.Fatal(err)
	}
	r.watchPods(ctx, load)
	r.watchRegisters(ctx, load)
	service, deployment := web()
	made, err := api.CoreV1().Services(namespace).Create(ctx, service, metav1.CreateOptions{})
	if err != nil {
		r.Fatal(err)
	}
	if _, err := api.AppsV1().Deployments(namespace).Create(ctx, deployment, metav1.CreateOptions{}); err != nil {
		r.Fatal(err)
	}
	for i := range identities {
		load.Go(func() { r.keepIdentity(ctx, disturbed, fmt.Sprintf("id-%d", i)) })
	}
	r.until(ctx, "the load's pods", func() error { return r.replicas(ctx) })
	load.Go(func() { r.lookAtHosts(ctx) })
	load.Go(func() { r.churn(disturbed) })
	r.writeRegisters(ctx, load)
	for _, host := range r.hosts {
		load.Go(func() { r.connectFrom(ctx, host, made.Spec.ClusterIP+":7000") })
	}
}

// any is a client of a server chosen at random.
func (r *run) any() kubernetes.Interface { return r.apis[rand.IntN(len(r.apis))] }

// keepIdentity makes a pod whenever there is none of the name, as a StatefulSet would, and deletes it from time to time.
func (r *run) keepIdentity(ctx, disturbed context.Context, name string) {
	for ; ctx.Err() == nil; sleep(ctx, 300*time.Millisecond) {
		asking, cancel := context.WithTimeout(ctx, answerWithin)
		pods := r.any().CoreV1().Pods(namespace)
		// Errors are those of the faults: it tries again.
		_, err := pods.Create(asking, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "identity"}}, Spec: podSpec(nil)}, metav1.CreateOptions{})
		if err != nil && disturbed.Err() == nil && rand.IntN(30) == 0 {
			_ = pods.Delete(asking, name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(1))})
		}
		cancel()
	}
}

// churn deletes pods of the Deployment and replaces all of them from time to time.
func (r *run) churn(ctx context.Context) {
	for round := 1; ctx.Err() == nil; round++ {
		sleep(ctx, 2*time.Second)
		asking, cancel := context.WithTimeout(ctx, answerWithin)
		api := r.any()
		if round%12 == 0 {
			patch := fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"round":"%d"}}}}}`, round)
			_, _ = api.AppsV1().Deployments(namespace).Patch(asking, "web", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
		} else if list, err := api.CoreV1().Pods(namespace).List(asking, metav1.ListOptions{LabelSelector: "app=web"}); err == nil && len(list.Items) > 0 {
			_ = api.CoreV1().Pods(namespace).Delete(asking, list.Items[rand.IntN(len(list.Items))].Name, metav1.DeleteOptions{})
		}
		cancel()
	}
}

// watchPods records what the API says of pods, at whichever server answers.
func (r *run) watchPods(ctx context.Context, load *sync.WaitGroup) {
	see := func(pod *corev1.Pod) {
		r.pods.See(invariant.Seen{
			UID: string(pod.UID), Name: pod.Namespace + "/" + pod.Name, Host: pod.Spec.NodeName, Phase: string(pod.Status.Phase),
			Drained: slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
				return c.Type == servicespec.PodDrained && c.Status == corev1.ConditionTrue
			}),
			At: time.Now(),
		})
	}
	f := follower{
		relist: func(ctx context.Context) (string, error) {
			list, err := r.any().CoreV1().Pods("").List(ctx, metav1.ListOptions{})
			if err != nil {
				return "", err
			}
			for i := range list.Items {
				see(&list.Items[i])
			}
			return list.ResourceVersion, nil
		},
		watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return r.any().CoreV1().Pods("").Watch(ctx, o)
		},
		see: func(deleted bool, _ metav1.Object, all any) {
			if pod, ok := all.(*corev1.Pod); ok && !deleted {
				see(pod)
			}
		},
	}
	load.Go(func() { f.run(ctx) })
}

// podFolder is the cgroup of a pod.
var podFolder = regexp.MustCompile(`^pod([0-9a-f]{8}-[-0-9a-f]{27})$`)

// lookAtHosts records which pods have processes, again and again.
func (r *run) lookAtHosts(ctx context.Context) {
	for ; ctx.Err() == nil; sleep(ctx, 100*time.Millisecond) {
		now := time.Now()
		first := r.runningPods()
		// Those that were there before and after a moment were there at that moment.
		second := r.runningPods()
		r.pods.Together(now, slices.DeleteFunc(first, func(p invariant.Running) bool { return !slices.Contains(second, p) }))
	}
}

func (r *run) runningPods() (running []invariant.Running) {
	for _, host := range r.hosts {
		for uid := range podCgroups(host, true) {
			running = append(running, invariant.Running{UID: uid, Host: host.Name})
		}
	}
	return running
}

// podCgroups are the UIDs of the pods that have a cgroup on a host, or processes in it.
func podCgroups(host *cluster.Node, populated bool) map[string]bool {
	uids := map[string]bool{}
	_ = filepath.WalkDir(host.CgroupPath(), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return nil // it was removed meanwhile
		}
		match := podFolder.FindStringSubmatch(entry.Name())
		if match == nil {
			return nil
		}
		events, err := os.ReadFile(filepath.Join(path, "cgroup.events"))
		if err == nil && (!populated || strings.Contains(string(events), "populated 1")) {
			uids[match[1]] = true
		}
		return fs.SkipDir
	})
	return uids
}
