package controlplane_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	toolswatch "k8s.io/client-go/tools/watch"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane"
)

// freePort lets the kernel choose a port, which no other process on this machine gets before we listen there again.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start runs a control plane in this process and returns a client of it.
func start(t *testing.T) *kubernetes.Clientset {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	serving := make(chan controlplane.Serving, 1)
	go func() {
		ended <- controlplane.Run(ctx, controlplane.Options{
			DataDir: t.TempDir(), Listen: freePort(t), DNSEtcdListen: freePort(t), Version: "test",
			Serving: func(s controlplane.Serving) { serving <- s },
		})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("control plane ended with %v", err)
		}
	})
	select {
	case s := <-serving:
		config, err := clientcmd.BuildConfigFromFlags("", s.Kubeconfig)
		if err != nil {
			t.Fatal(err)
		}
		return kubernetes.NewForConfigOrDie(config)
	case err := <-ended:
		ended <- nil
		t.Fatalf("control plane ended while starting: %v", err)
	}
	return nil
}

func fakeNode(t *testing.T, client kubernetes.Interface, name string) {
	t.Helper()
	node, err := client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node.ResourceVersion = "" // its taints come and go meanwhile
	node.Status.Allocatable = corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now()}}
	if _, err := client.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func echoController(replicas int32) *corev1.ReplicationController {
	return &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Name: "echo"},
		Spec: corev1.ReplicationControllerSpec{
			Replicas: &replicas, Selector: map[string]string{"app": "echo"},
			Template: &corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "echo"}},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "echo", Image: "echo"}}},
			},
		},
	}
}

// awaitPods watches the pods of the namespace until done returns true for them.
func awaitPods(t *testing.T, client kubernetes.Interface, done func(map[string]*corev1.Pod) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	lw := cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "pods", "default", fields.Everything())
	pods := map[string]*corev1.Pod{}
	_, err := toolswatch.UntilWithSync(ctx, lw, &corev1.Pod{}, func(s cache.Store) (bool, error) {
		for _, o := range s.List() {
			pods[o.(*corev1.Pod).Name] = o.(*corev1.Pod)
		}
		return done(pods), nil
	}, func(e watch.Event) (bool, error) {
		pod := e.Object.(*corev1.Pod)
		pods[pod.Name] = pod
		if e.Type == watch.Deleted {
			delete(pods, pod.Name)
		}
		return done(pods), nil
	})
	if err != nil {
		t.Fatalf("%v; the pods are %v", err, nodesOf(pods))
	}
}

func nodesOf(pods map[string]*corev1.Pod) map[string]string {
	nodes := map[string]string{}
	for name, pod := range pods {
		nodes[name] = pod.Spec.NodeName
	}
	return nodes
}

func TestReplicationControllerThroughTheAPI(t *testing.T) {
	client := start(t)
	for i := range 3 {
		fakeNode(t, client, fmt.Sprintf("node%d", i+1))
	}
	_, err := client.CoreV1().Services("default").Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "echo"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "echo"}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	rc, err := client.CoreV1().ReplicationControllers("default").Create(t.Context(), echoController(3), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	awaitPods(t, client, func(pods map[string]*corev1.Pod) bool {
		nodes := map[string]bool{}
		for _, pod := range pods {
			nodes[pod.Spec.NodeName] = pod.Spec.NodeName != ""
		}
		return len(pods) == 3 && len(nodes) == 3 && !nodes[""]
	})
	makeReady(t, client)
	awaitSlice(t, client, 3)

	rc, err = client.CoreV1().ReplicationControllers("default").Patch(t.Context(), rc.Name, "application/merge-patch+json", []byte(`{"spec":{"replicas":0}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	awaitPods(t, client, func(pods map[string]*corev1.Pod) bool {
		for _, pod := range pods {
			if pod.DeletionTimestamp == nil {
				return false
			}
		}
		return true
	})
	events, err := client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + rc.Name})
	if err != nil {
		t.Fatal(err)
	}
	reasons := map[string]int{}
	for _, e := range events.Items {
		reasons[e.Reason]++
	}
	if reasons["SuccessfulCreate"] != 3 {
		t.Errorf("events of the controller are %v, want 3 SuccessfulCreate", reasons)
	}
	wantMetrics(t, client)
}

// wantMetrics tests that an operator sees the loops, their queues, the caches, the leader and etcd, by the names of Kubernetes
// where it has one.
func wantMetrics(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	data, err := client.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`workqueue_depth{name="endpointslices"} `, `workqueue_retries_total{name="garbage collection"} `,
		`leader_election_master_status{name="skep-controllers"} 1`, `scheduler_pending_pods{queue="active"} 0`,
		`scheduler_scheduling_attempt_duration_seconds_count{profile="default-scheduler",result="scheduled"} `,
		`skep_watchcache_objects{group="",resource="nodes"} 3`, `skep_watchcache_revision{group="",resource="pods"} `,
		`skep_watchcache_window_events{group="apps",resource="deployments"} `, `skep_watchcache_window_bytes{group="",resource="nodes"} `,
		`skep_watchcache_wait_seconds_count{prefix="/registry/pods/"} `,
		`etcd_request_duration_seconds_count{operation="commit"} `, `etcd_request_duration_seconds_count{operation="list"} `,
		`apiserver_admission_controller_admission_duration_seconds_count{name="NamespaceLifecycle",operation="CREATE",rejected="false",type="admit"} `,
		`apiserver_admission_controller_admission_duration_seconds_count{name="Priority",operation="CREATE",rejected="false",type="admit"} `,
		`skep_event_queue_depth{component="replication-controller"} 0`, `skep_events_total{component="default-scheduler",result="written"} `,
	} {
		if !bytes.Contains(data, []byte("\n"+line)) {
			t.Errorf("metrics have no line %s", line)
		}
	}
	for _, loop := range []string{
		"scheduler", "replication", "replicasets", "deployments", "endpoints", "load balancers", "node", "namespace", "gc", "podgc", "conflicts", "disruption",
		"networkpolicy", "servicecidr", "serviceaccount", "tokencleaner",
	} {
		if line := fmt.Sprintf("\nskep_control_loop_running{loop=%q} 1\n", loop); !bytes.Contains(data, []byte(line)) {
			t.Errorf("metrics have no line %s", line)
		}
	}
	for _, queue := range []string{
		"replicationcontrollers", "replicasets", "deployments", "scheduler", "endpointslices", "garbage collection", "podgc", "podgc_terminated",
		"namespace", "system objects",
	} {
		for _, metric := range []string{"depth", "adds_total", "retries_total", "unfinished_work_seconds", "queue_duration_seconds_count", "work_duration_seconds_count"} {
			if line := fmt.Sprintf("\nworkqueue_%s{name=%q} ", metric, queue); !bytes.Contains(data, []byte(line)) {
				t.Errorf("metrics have no line %s", line)
			}
		}
	}
}

// makeReady acts as the agents: it gives every pod an address and reports it ready.
func makeReady(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	pods, err := client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i, pod := range pods.Items {
		pod.ResourceVersion = ""
		pod.Status.Phase = corev1.PodRunning
		pod.Status.PodIP = fmt.Sprintf("10.244.0.%d", i+10)
		pod.Status.PodIPs = []corev1.PodIP{{IP: pod.Status.PodIP}}
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()})
		if _, err := client.CoreV1().Pods("default").UpdateStatus(t.Context(), &pod, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

func awaitSlice(t *testing.T, client kubernetes.Interface, ready int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	lw := cache.NewListWatchFromClient(client.DiscoveryV1().RESTClient(), "endpointslices", "default", fields.Everything())
	count := func(obj any) bool {
		slice, n := obj.(*discoveryv1.EndpointSlice), 0
		for _, e := range slice.Endpoints {
			if ptr.Deref(e.Conditions.Ready, false) {
				n++
			}
		}
		return slice.Labels[discoveryv1.LabelServiceName] == "echo" && n == ready && *slice.Ports[0].Port == 8080
	}
	_, err := toolswatch.UntilWithSync(ctx, lw, &discoveryv1.EndpointSlice{}, func(s cache.Store) (bool, error) {
		for _, o := range s.List() {
			if count(o) {
				return true, nil
			}
		}
		return false, nil
	}, func(e watch.Event) (bool, error) { return count(e.Object), nil })
	if err != nil {
		t.Fatalf("no slice with %d ready endpoints: %v", ready, err)
	}
}
