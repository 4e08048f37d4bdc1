package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// Config describes the node to the cluster.
type Config struct {
	Client         kubernetes.Interface
	Name           string
	IPs            []netip.Addr      // the first is the primary one
	Labels         map[string]string // beside those that every node has
	StateDir       string
	Version        string // of the agent
	RuntimeVersion func(context.Context) (string, error)
	Images         func(context.Context) ([]corev1.ContainerImage, error) // optional
	Port           int32
	Capacity       corev1.ResourceList // what the host has (see Capacity)
	Allocatable    corev1.ResourceList // and what of it pods may request
	// PodCIDRs are the ranges that the host's pods have from before, if it was a node already: the Node object asks for them
	// whenever it has to be made.
	PodCIDRs []netip.Prefix
	// Registered hears of the pod ranges whenever Run had to register the node again; an error from it ends Run.
	Registered func(podCIDRs []netip.Prefix) error
	// Renewed hears until when the cluster takes this host for alive, whenever that is put off; optional.
	Renewed func(until time.Time)
}

// Node keeps the Node object and the lease current.
type Node struct {
	cfg Config

	mu       sync.Mutex
	known    *corev1.NodeStatus // as found at registration: conditions that hold since then keep their times
	uid      types.UID
	podCIDRs []netip.Prefix
	problems map[string]error                                  // part of the node -> why it does not work
	beside   map[corev1.NodeConditionType]corev1.NodeCondition // conditions that do not decide whether the node is ready
	// overruled is set when the API has conditions that others wrote over ours.
	overruled bool
	// deleted is set when the Node object has been removed while this host lives.
	deleted bool
	changed chan struct{}
}

// statusInterval is how often the status is looked at, statusHeartbeat how often it is written though nothing changed.
const (
	statusInterval  = 10 * time.Second
	statusHeartbeat = 5 * time.Minute
)

// New describes the host; nothing is written before Register.
func New(cfg Config) (*Node, error) {
	return &Node{cfg: cfg, podCIDRs: cfg.PodCIDRs, problems: map[string]error{},
		beside: map[corev1.NodeConditionType]corev1.NodeCondition{}, changed: make(chan struct{}, 1)}, nil
}

// Allocatable is what pods may ask of the node.
func (n *Node) Allocatable() corev1.ResourceList { return n.cfg.Allocatable }

// Reference is what events about the node refer to.
func (n *Node) Reference() *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: n.cfg.Name, UID: types.UID(n.cfg.Name)}
}

// Report says whether a part of the node works (nil) or why not; with any problem the node is NotReady.
func (n *Node) Report(part string, problem error) {
	n.mu.Lock()
	before := n.problems[part]
	if problem == nil {
		delete(n.problems, part)
	} else {
		n.problems[part] = problem
	}
	n.mu.Unlock()
	if (before == nil) == (problem == nil) && (before == nil || before.Error() == problem.Error()) {
		return
	}
	n.wakeUp()
}

// SetCondition adds a condition that does not decide whether the node is ready, and returns what it said before.
func (n *Node) SetCondition(c corev1.NodeCondition) (before corev1.NodeCondition, changed bool) {
	n.mu.Lock()
	before = n.beside[c.Type]
	n.beside[c.Type] = c
	n.mu.Unlock()
	if changed = before != c; changed {
		n.wakeUp()
	}
	return before, changed
}

// wakeUp has Run look again.
func (n *Node) wakeUp() {
	select {
	case n.changed <- struct{}{}:
	default:
	}
}

// Observe takes the node as the API has it. Conditions that the control plane set to Unknown while it did not hear from this
// host are written again at once, not at the next heartbeat.
func (n *Node) Observe(obj *corev1.Node) {
	if obj.Name != n.cfg.Name {
		return
	}
	unknown := func(c corev1.NodeCondition) bool { return c.Status == corev1.ConditionUnknown }
	if !slices.ContainsFunc(obj.Status.Conditions, unknown) {
		return
	}
	n.mu.Lock()
	n.known, n.overruled = obj.Status.DeepCopy(), true
	n.mu.Unlock()
	n.wakeUp()
}

// ObserveDeletion takes note that the Node object is gone: a host that lives registers again.
func (n *Node) ObserveDeletion(name string) {
	if name != n.cfg.Name {
		return
	}
	n.mu.Lock()
	n.deleted = true
	n.mu.Unlock()
	n.wakeUp()
}

// takeDeleted says once whether the Node object has been removed since the last call.
func (n *Node) takeDeleted() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	deleted := n.deleted
	n.deleted = false
	return deleted
}

// registerAgain makes the Node object anew. Its pod range may be another now.
func (n *Node) registerAgain(ctx context.Context) error {
	slog.Warn("the Node object was deleted; registering again", "node", n.cfg.Name)
	podCIDRs, err := n.Register(ctx)
	if err != nil || n.cfg.Registered == nil {
		return err
	}
	return n.cfg.Registered(podCIDRs)
}

// takeOverruled says once whether the API's status is another's since the last call.
func (n *Node) takeOverruled() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	overruled := n.overruled
	n.overruled = false
	return overruled
}

// Register makes the Node object or takes over the one of this name, and returns the ranges that the cluster gave its pods. It
// tries for as long as the API server does not answer.
func (n *Node) Register(ctx context.Context) ([]netip.Prefix, error) {
	for wait := retryFirst; ; wait = min(2*wait, retryMax) {
		podCIDRs, err := n.register(ctx)
		var refused *RefusedError
		if err == nil || errors.As(err, &refused) || ctx.Err() != nil {
			return podCIDRs, err
		}
		slog.Warn("node not registered; trying again", "node", n.cfg.Name, "error", err)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		}
	}
}

func (n *Node) register(ctx context.Context) ([]netip.Prefix, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	nodes := n.cfg.Client.CoreV1().Nodes()
	obj, err := nodes.Get(ctx, n.cfg.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		obj, err = n.create(ctx)
	} else if err == nil {
		err = n.syncLabels(ctx, obj)
	}
	if apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
		return nil, &RefusedError{fmt.Sprintf("the API server refuses node %s: %v", n.cfg.Name, err)}
	}
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	n.uid, n.known = obj.UID, obj.Status.DeepCopy()
	n.mu.Unlock()
	if obj.Spec.PodCIDR == "" {
		if obj, err = n.awaitPodCIDR(ctx, obj.ResourceVersion); err != nil {
			return nil, err
		}
	}
	podCIDRs, err := podCIDRsOf(obj)
	if err != nil {
		return nil, fmt.Errorf("pod range of node %s: %w", n.cfg.Name, err)
	}
	n.mu.Lock()
	n.podCIDRs = podCIDRs
	n.mu.Unlock()
	return podCIDRs, nil
}

func podCIDRsOf(obj *corev1.Node) (list []netip.Prefix, err error) {
	texts := obj.Spec.PodCIDRs
	if len(texts) == 0 {
		texts = []string{obj.Spec.PodCIDR}
	}
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, err
		}
		list = append(list, p.Masked())
	}
	return list, nil
}

// create makes the Node object. That of a host which was a node before asks for the ranges that its pods have, if no other
// node holds them by now, and says from the first moment that it is ready: a node without conditions is taken for one that is
// not, and its pods are evicted.
func (n *Node) create(ctx context.Context) (*corev1.Node, error) {
	nodes := n.cfg.Client.CoreV1().Nodes()
	obj := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.cfg.Name, Labels: n.labels()}}
	n.mu.Lock()
	held := n.podCIDRs
	n.mu.Unlock()
	if len(held) > 0 {
		status, err := n.status(ctx, nil)
		if err != nil {
			return nil, err
		}
		obj.Status = *status
		for _, p := range held {
			obj.Spec.PodCIDRs = append(obj.Spec.PodCIDRs, p.String())
		}
		obj.Spec.PodCIDR = obj.Spec.PodCIDRs[0]
		created, err := nodes.Create(ctx, obj, metav1.CreateOptions{})
		if !apierrors.IsInvalid(err) {
			return created, err
		}
		slog.Warn("the node's pod range is not free any more; taking another", "node", n.cfg.Name, "error", err)
		obj.Spec = corev1.NodeSpec{}
	}
	return nodes.Create(ctx, obj, metav1.CreateOptions{})
}

// awaitPodCIDR waits for whoever assigns ranges, where that is not the API server itself.
func (n *Node) awaitPodCIDR(ctx context.Context, resourceVersion string) (*corev1.Node, error) {
	w, err := n.cfg.Client.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{
		FieldSelector:   fields.OneTermEqualSelector("metadata.name", n.cfg.Name).String(),
		ResourceVersion: resourceVersion,
	})
	if err != nil {
		return nil, err
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		if obj, ok := e.Object.(*corev1.Node); ok && obj.Spec.PodCIDR != "" {
			return obj, nil
		}
	}
	return nil, fmt.Errorf("node %s has not been given a pod range", n.cfg.Name)
}

func (n *Node) labels() map[string]string {
	labels := map[string]string{
		corev1.LabelHostname:              n.cfg.Name,
		corev1.LabelOSStable:              runtime.GOOS,
		corev1.LabelArchStable:            runtime.GOARCH,
		"beta." + corev1.LabelOSStable:    runtime.GOOS,
		"beta." + corev1.LabelArchStable:  runtime.GOARCH,
		corev1.LabelInstanceTypeStable:    "skep",
		"node.kubernetes.io/skep-version": labelValue(n.cfg.Version),
	}
	maps.Copy(labels, n.cfg.Labels)
	return labels
}

// labelValue makes a version fit a label.
func labelValue(s string) string {
	b := []byte(s)
	for i, c := range b {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '-' || c == '_') {
			b[i] = '_'
		}
	}
	return string(b[:min(len(b), 63)])
}

// syncLabels sets the labels that are the agent's and leaves all others.
func (n *Node) syncLabels(ctx context.Context, obj *corev1.Node) error {
	missing := map[string]string{}
	for key, value := range n.labels() {
		if obj.Labels[key] != value {
			missing[key] = value
		}
	}
	if len(missing) == 0 {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": missing}})
	if err != nil {
		return err
	}
	_, err = n.cfg.Client.CoreV1().Nodes().Patch(ctx, n.cfg.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	return err
}

// Run writes the status when it changes, renews the lease every second, and registers the node again if it is deleted, until
// ctx ends.
func (n *Node) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { n.renewLease(ctx) })
	defer running.Wait()
	defer cancel()
	var last *corev1.NodeStatus
	var written time.Time
	unsure := false // what was written last may have arrived though it failed
	ticker := time.NewTicker(statusInterval)
	defer ticker.Stop()
	wait := time.Duration(0)
	for {
		if n.takeDeleted() {
			if err := n.registerAgain(ctx); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return err
			}
			last = nil
		}
		if n.takeOverruled() {
			last = nil
		}
		status, err := n.status(ctx, n.before(last))
		if err == nil && (last == nil || unsure || time.Since(written) > statusHeartbeat || !sameStatus(last, status)) {
			err = n.writeStatus(ctx, status)
			if unsure = err != nil; !unsure {
				last, written = status, time.Now()
			}
		}
		if err != nil && ctx.Err() == nil {
			slog.Warn("node status not written; trying again", "node", n.cfg.Name, "error", err)
			wait = min(max(2*wait, retryFirst), retryMax)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(wait):
			}
			if apierrors.IsNotFound(err) {
				n.ObserveDeletion(n.cfg.Name)
			}
			continue
		}
		wait = 0
		select {
		case <-ctx.Done():
			return nil
		case <-n.changed:
		case <-ticker.C:
		}
	}
}

// before is the last status, whoever wrote it.
func (n *Node) before(last *corev1.NodeStatus) *corev1.NodeStatus {
	if last != nil {
		return last
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.known
}
