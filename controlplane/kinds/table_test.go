package kinds

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/resource"
)

// columnsOf are the names of the columns that kubectl shows; those after a bar
// only with -o wide.
func columnsOf(table *metav1.Table) string {
	var narrow, wide []string
	for _, column := range table.ColumnDefinitions {
		if column.Priority == 0 {
			narrow = append(narrow, column.Name)
		} else {
			wide = append(wide, column.Name)
		}
	}
	return strings.TrimSuffix(strings.Join(narrow, ",")+"|"+strings.Join(wide, ","), "|")
}

func TestTableColumns(t *testing.T) {
	want := map[*resource.Kind]string{
		PodTemplates:           "Name,Containers,Images,Pod Labels",
		Pods:                   "Name,Ready,Status,Restarts,Age|IP,Node,Nominated Node,Readiness Gates",
		Services:               "Name,Type,Cluster-IP,External-IP,Port(s),Age|Selector",
		ReplicationControllers: "Name,Desired,Current,Ready,Age|Containers,Images,Selector",
		ReplicaSets:            "Name,Desired,Current,Ready,Age|Containers,Images,Selector",
		Deployments:            "Name,Ready,Up-to-date,Available,Age|Containers,Images,Selector",
		Nodes:                  "Name,Status,Roles,Age,Version|Internal-IP,External-IP,OS-Image,Kernel-Version,Container-Runtime",
		Namespaces:             "Name,Status,Age",
		Endpoints:              "Name,Endpoints,Age",
		EndpointSlices:         "Name,AddressType,Ports,Endpoints,Age",
		Events:                 "Last Seen,Type,Reason,Object,Message|Subobject,Source,First Seen,Count,Name",
		ConfigMaps:             "Name,Data,Age",
		Secrets:                "Name,Type,Data,Age",
		ServiceAccounts:        "Name,Age",
		Leases:                 "Name,Holder,Age",
		IPAddresses:            "Name,ParentRef",
		ServiceCIDRs:           "Name,CIDRs,Age",
		Ingresses:              "Name,Class,Hosts,Address,Ports,Age",
		IngressClasses:         "Name,Controller,Parameters,Age",
		NetworkPolicies:        "Name,Pod-Selector,Age",
		PodDisruptionBudgets:   "Name,Min Available,Max Unavailable,Allowed Disruptions,Age",
		PriorityClasses:        "Name,Value,Global-Default,Age,PreemptionPolicy",
	}
	for _, kind := range All() {
		empty, err := kind.Table(nil, metav1.TableOptions{})
		if err != nil {
			t.Fatalf("%s: %v", kind.Resource, err)
		}
		if got := columnsOf(empty); got != want[kind] {
			t.Errorf("%s prints %s, want %s", kind.Resource, got, want[kind])
		}
		if len(empty.Rows) != 0 {
			t.Errorf("%s: %d rows of no objects", kind.Resource, len(empty.Rows))
		}
	}
}

func TestTableRows(t *testing.T) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", CreationTimestamp: metav1.NewTime(time.Now().Add(-time.Hour))},
		Spec:       corev1.PodSpec{NodeName: "node1", Containers: []corev1.Container{{Name: "a"}, {Name: "b"}}},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: "10.0.0.1", PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}},
			ContainerStatuses: []corev1.ContainerStatus{
				{Name: "a", Ready: true, RestartCount: 3, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}},
				{Name: "b", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}},
			},
		},
	}
	other := pod.DeepCopy()
	other.Name = "other"
	table, err := Pods.Table([]resource.Object{pod, other}, metav1.TableOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(table.Rows) != 2 {
		t.Fatalf("%d rows of two pods", len(table.Rows))
	}
	if got := fmt.Sprint(table.Rows[0].Cells); got != "[web 1/2 CrashLoopBackOff 3 60m 10.0.0.1 node1 <none> <none>]" {
		t.Errorf("printed %s", got)
	}
	if partial, ok := table.Rows[1].Object.Object.(*metav1.PartialObjectMetadata); !ok || partial.Name != "other" || partial.Kind != "PartialObjectMetadata" {
		t.Errorf("beside the row is %#v", table.Rows[1].Object.Object)
	}

	whole, err := Pods.Table([]resource.Object{pod}, metav1.TableOptions{IncludeObject: metav1.IncludeObject, NoHeaders: true})
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := whole.Rows[0].Object.Object.(*corev1.Pod); !ok || got.Kind != "Pod" || got.APIVersion != "v1" || got.Spec.NodeName != "node1" {
		t.Errorf("beside the row is %#v", whole.Rows[0].Object.Object)
	}
	if pod.Kind != "" {
		t.Error("the printed object, which is shared, was changed")
	}
	if len(whole.ColumnDefinitions) != 0 {
		t.Errorf("columns %v in spite of noHeaders", whole.ColumnDefinitions)
	}
	none, err := Pods.Table([]resource.Object{pod}, metav1.TableOptions{IncludeObject: metav1.IncludeNone})
	if err != nil || none.Rows[0].Object.Object != nil {
		t.Errorf("beside the row is %#v, %v", none.Rows[0].Object.Object, err)
	}
	if _, err := Pods.Table([]resource.Object{pod}, metav1.TableOptions{IncludeObject: "Half"}); err == nil {
		t.Error("includeObject=Half was accepted")
	}
}
