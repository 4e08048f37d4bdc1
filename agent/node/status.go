package node

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// maxImages is how many images a node's status lists.
const maxImages = 50

// status describes the host now. Conditions keep the time of their last change from the status before.
func (n *Node) status(ctx context.Context, last *corev1.NodeStatus) (*corev1.NodeStatus, error) {
	version, err := n.cfg.RuntimeVersion(ctx)
	up := err == nil
	n.Report("container runtime", runtimeProblem(err))
	if !up && last != nil {
		version = strings.TrimPrefix(last.NodeInfo.ContainerRuntimeVersion, "containerd://")
	}
	info, err := systemInfo(n.cfg.Version, version)
	if err != nil {
		return nil, err
	}
	status := &corev1.NodeStatus{
		Capacity:        shown(n.cfg.Capacity),
		Allocatable:     shown(n.cfg.Allocatable),
		Addresses:       n.addresses(),
		DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: n.cfg.Port}},
		NodeInfo:        info,
		Conditions:      slices.Concat(pressureConditions(n.Pressure()), n.besideReady(), []corev1.NodeCondition{n.ready()}),
	}
	groups := true // both policies are supported
	status.Features = &corev1.NodeFeatures{SupplementalGroupsPolicy: &groups}
	if n.cfg.Handlers != nil {
		status.RuntimeHandlers = n.cfg.Handlers()
	}
	if n.cfg.Images != nil && up {
		if images, err := n.cfg.Images(ctx); err == nil {
			status.Images = images[:min(len(images), maxImages)]
		}
	}
	now := metav1.NewTime(time.Now().Truncate(time.Second))
	for i := range status.Conditions {
		c := &status.Conditions[i]
		c.LastHeartbeatTime, c.LastTransitionTime = now, now
		if before := findCondition(last, c.Type); before != nil && before.Status == c.Status {
			c.LastTransitionTime = before.LastTransitionTime
		}
	}
	return status, nil
}

func (n *Node) addresses() (list []corev1.NodeAddress) {
	for _, ip := range n.cfg.IPs {
		list = append(list, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip.String()})
	}
	return append(list, corev1.NodeAddress{Type: corev1.NodeHostName, Address: n.cfg.Name})
}

func runtimeProblem(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("container runtime is down: %w", err)
}

func findCondition(status *corev1.NodeStatus, kind corev1.NodeConditionType) *corev1.NodeCondition {
	if status == nil {
		return nil
	}
	for i := range status.Conditions {
		if status.Conditions[i].Type == kind {
			return &status.Conditions[i]
		}
	}
	return nil
}

func (n *Node) ready() corev1.NodeCondition {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := corev1.NodeCondition{
		Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status",
	}
	if len(n.problems) == 0 {
		return c
	}
	var messages []string
	for _, part := range slices.Sorted(maps.Keys(n.problems)) {
		messages = append(messages, n.problems[part].Error())
	}
	c.Status, c.Reason, c.Message = corev1.ConditionFalse, "KubeletNotReady", strings.Join(messages, "; ")
	return c
}

func (n *Node) besideReady() (list []corev1.NodeCondition) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, kind := range slices.Sorted(maps.Keys(n.beside)) {
		list = append(list, n.beside[kind])
	}
	return list
}

// sameStatus ignores the times of the last heartbeat.
func sameStatus(a, b *corev1.NodeStatus) bool {
	a, b = a.DeepCopy(), b.DeepCopy()
	for _, s := range []*corev1.NodeStatus{a, b} {
		for i := range s.Conditions {
			s.Conditions[i].LastHeartbeatTime = metav1.Time{}
		}
	}
	return apiequality.Semantic.DeepEqual(a, b)
}

func (n *Node) writeStatus(ctx context.Context, status *corev1.NodeStatus) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	patch, err := statusPatch(status)
	if err != nil {
		return err
	}
	_, err = n.cfg.Client.CoreV1().Nodes().Patch(ctx, n.cfg.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

// statusPatch replaces the addresses as a whole. Patches merge them by type, and a node with addresses of both families has
// two of the same type (kubernetes 79391).
func statusPatch(status *corev1.NodeStatus) ([]byte, error) {
	addresses := []any{map[string]string{"$patch": "replace"}}
	for _, a := range status.Addresses {
		addresses = append(addresses, a)
	}
	type others corev1.NodeStatus
	return json.Marshal(map[string]any{"status": struct {
		*others
		Addresses []any `json:"addresses"`
	}{(*others)(status), addresses}})
}
