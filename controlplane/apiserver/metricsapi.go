package apiserver

import (
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

const metricsGroup = "metrics.k8s.io"

var metricsGroupVersion = schema.GroupVersion{Group: metricsGroup, Version: "v1beta1"}

// metricsWindow is the span over which agents measure the CPU rate.
const metricsWindow = 10 * time.Second

// serveMetricsAPI answers metrics.k8s.io: usage of nodes, pods and containers, asked of the agents now.
func (s *Server) serveMetricsAPI(w http.ResponseWriter, c *call) error {
	if c.version != metricsGroupVersion.Version || c.subresource != "" || (c.resource != "nodes" && c.resource != "pods") ||
		(c.resource == "nodes") == (c.namespace != "") && c.name != "" {
		return notFound()
	}
	if c.verb != "get" && c.verb != "list" {
		return methodNotAllowed(c)
	}
	o, err := negotiate(c.Request, c.query, false, false)
	if err != nil {
		return err
	}
	c.kind = kinds.Pods
	if c.resource == "nodes" {
		c.kind = kinds.Nodes
	}
	options, err := listOptions(&call{Request: c.Request, query: c.query, verb: "list", kind: c.kind})
	if err != nil {
		return err
	}
	if c.name != "" {
		options.FieldSelector = fields.OneTermEqualSelector("metadata.name", c.name)
	}
	list, err := s.registry.List(c.Context(), c.kind, c.namespace, resource.ListOptions{
		LabelSelector: options.LabelSelector, FieldSelector: options.FieldSelector, ResourceVersion: "0",
	})
	if err != nil {
		return err
	}
	if c.resource == "nodes" {
		return s.nodeMetrics(w, c, o, list)
	}
	return s.podMetrics(w, c, o, list)
}

func (s *Server) nodeMetrics(w http.ResponseWriter, c *call, o output, list *resource.List) error {
	var nodes []*corev1.Node
	for _, obj := range list.Objects {
		if node, ok := obj.Value().(*corev1.Node); ok {
			nodes = append(nodes, node)
		}
	}
	out := &metricsv1beta1.NodeMetricsList{Items: []metricsv1beta1.NodeMetrics{}}
	for i, summary := range s.stats.collect(c.Context(), nodes) {
		if summary == nil {
			continue
		}
		usage, at := usageOf(summary.Node.CPU, summary.Node.Memory)
		if usage == nil {
			continue
		}
		out.Items = append(out.Items, metricsv1beta1.NodeMetrics{
			TypeMeta:   metav1.TypeMeta{Kind: "NodeMetrics", APIVersion: metricsGroupVersion.String()},
			ObjectMeta: metricsMeta(nodes[i]), Timestamp: at, Window: metav1.Duration{Duration: metricsWindow}, Usage: usage,
		})
	}
	if c.name == "" {
		out.TypeMeta = metav1.TypeMeta{Kind: "NodeMetricsList", APIVersion: metricsGroupVersion.String()}
		writeObject(w, c.Request, o, http.StatusOK, out)
		return nil
	}
	if len(out.Items) == 0 {
		return apierrors.NewNotFound(schema.GroupResource{Group: metricsGroup, Resource: "nodes"}, c.name)
	}
	writeObject(w, c.Request, o, http.StatusOK, &out.Items[0])
	return nil
}

func (s *Server) podMetrics(w http.ResponseWriter, c *call, o output, list *resource.List) error {
	var pods []*corev1.Pod
	wanted := map[string]bool{}
	for _, obj := range list.Objects {
		if pod, ok := obj.Value().(*corev1.Pod); ok && pod.Spec.NodeName != "" {
			pods = append(pods, pod)
			wanted[pod.Spec.NodeName] = true
		}
	}
	usage := s.podUsage(c, wanted)
	out := &metricsv1beta1.PodMetricsList{Items: []metricsv1beta1.PodMetrics{}}
	for _, pod := range pods {
		if stats, ok := usage[string(pod.UID)]; ok {
			if item, ok := metricsOfPod(pod, stats); ok {
				out.Items = append(out.Items, item)
			}
		}
	}
	if c.name == "" {
		out.TypeMeta = metav1.TypeMeta{Kind: "PodMetricsList", APIVersion: metricsGroupVersion.String()}
		writeObject(w, c.Request, o, http.StatusOK, out)
		return nil
	}
	if len(out.Items) == 0 {
		return apierrors.NewNotFound(schema.GroupResource{Group: metricsGroup, Resource: "pods"}, c.namespace+"/"+c.name)
	}
	writeObject(w, c.Request, o, http.StatusOK, &out.Items[0])
	return nil
}

// podUsage asks the agents of the wanted nodes and returns their pods' statistics by UID.
func (s *Server) podUsage(c *call, wanted map[string]bool) map[string]*statsv1alpha1.PodStats {
	var nodes []*corev1.Node
	for _, node := range resource.ListAs[*corev1.Node](s.registry, kinds.Nodes, "", labels.Everything()) {
		if wanted[node.Name] {
			nodes = append(nodes, node)
		}
	}
	usage := map[string]*statsv1alpha1.PodStats{}
	for _, summary := range s.stats.collect(c.Context(), nodes) {
		if summary == nil {
			continue
		}
		for i := range summary.Pods {
			usage[summary.Pods[i].PodRef.UID] = &summary.Pods[i]
		}
	}
	return usage
}

func metricsOfPod(pod *corev1.Pod, stats *statsv1alpha1.PodStats) (metricsv1beta1.PodMetrics, bool) {
	item := metricsv1beta1.PodMetrics{
		TypeMeta:   metav1.TypeMeta{Kind: "PodMetrics", APIVersion: metricsGroupVersion.String()},
		ObjectMeta: metricsMeta(pod), Window: metav1.Duration{Duration: metricsWindow},
	}
	for i := range stats.Containers {
		container := &stats.Containers[i]
		usage, at := usageOf(container.CPU, container.Memory)
		if usage == nil {
			continue
		}
		if item.Timestamp.IsZero() || at.Before(&item.Timestamp) {
			item.Timestamp = at
		}
		item.Containers = append(item.Containers, metricsv1beta1.ContainerMetrics{Name: container.Name, Usage: usage})
	}
	return item, len(item.Containers) > 0
}

func metricsMeta(obj metav1.Object) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: obj.GetName(), Namespace: obj.GetNamespace(), Labels: obj.GetLabels(), CreationTimestamp: metav1.Now(),
	}
}

// usageOf returns CPU and memory in use; nil where one of them has not been measured yet.
func usageOf(cpu *statsv1alpha1.CPUStats, memory *statsv1alpha1.MemoryStats) (corev1.ResourceList, metav1.Time) {
	if cpu == nil || cpu.UsageNanoCores == nil || memory == nil || memory.WorkingSetBytes == nil {
		return nil, metav1.Time{}
	}
	return corev1.ResourceList{
		corev1.ResourceCPU:    *apiresource.NewScaledQuantity(int64(*cpu.UsageNanoCores), apiresource.Nano),
		corev1.ResourceMemory: *apiresource.NewQuantity(int64(*memory.WorkingSetBytes), apiresource.BinarySI),
	}, cpu.Time
}
