package node

import (
	"context"
	"encoding/json"
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

	"github.com/skep-io/skep/backoff"
)

// Config describes the node.
type Config struct {
	Client            kubernetes.Interface
	Name              string
	IPs               []netip.Addr      // the first is the primary one
	Labels            map[string]string // in addition to those of every node
	StateDir, Version string            // the version is the agent's
	RuntimeVersion    func(context.Context) (string, error)
	Images            func(context.Context) ([]corev1.ContainerImage, error) // optional
	Handlers          func() []corev1.NodeRuntimeHandler
	Port              int32
	Capacity          corev1.ResourceList // the host's (see Capacity)
	Allocatable       corev1.ResourceList // how much of it pods may request
	// Removed is called once when the node was removed from the cluster, and its certificate is refused.
	Removed func()
	// Unknown is called when the API server begins to refuse the node's certificate as unknown; optional.
	Unknown func()
	// Renewed is called with the lease's new end whenever it is renewed; optional.
	Renewed func(until time.Time)
}

// Node keeps the Node object and the lease up to date.
type Node struct {
	cfg Config

	mu       sync.Mutex
	known    *corev1.NodeStatus // as found at registration: conditions that have not changed since keep their times
	uid      types.UID
	problems map[string]error                                  // part of the node -> its error
	beside   map[corev1.NodeConditionType]corev1.NodeCondition // conditions that do not decide whether the node is ready
	pressure []corev1.NodeConditionType                        // what the node is short of
	// overruled is set when other clients have overwritten the node's conditions.
	overruled bool
	changed   chan struct{}

	applied applied
	removal sync.Once // of the node from the cluster
	unknown bool      // the API server last refused the node as unknown
}

// statusInterval is how often the status is computed, statusHeartbeat how often it is written without a change.
const (
	statusInterval  = 10 * time.Second
	statusHeartbeat = 5 * time.Minute
)

// New describes the host; nothing is written before Register.
func New(cfg Config) (*Node, error) {
	return &Node{cfg: cfg, problems: map[string]error{}, applied: applied{hurry: make(chan struct{}, 1)},
		beside: map[corev1.NodeConditionType]corev1.NodeCondition{}, changed: make(chan struct{}, 1)}, nil
}

// Allocatable is what pods may request of the node.
func (n *Node) Allocatable() corev1.ResourceList { return n.cfg.Allocatable }

// Reference is the object of events about the node.
func (n *Node) Reference() *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: n.cfg.Name, UID: types.UID(n.cfg.Name)}
}

// Report sets the error of a part of the node, nil if it works; with any error the node is NotReady.
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

// SetCondition sets a condition that does not decide whether the node is ready, and returns its previous state.
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

// wakeUp makes Run compute the status now.
func (n *Node) wakeUp() {
	select {
	case n.changed <- struct{}{}:
	default:
	}
}

// Observe records the API's Node object. Conditions that the control plane set to Unknown while it got nothing from this host are
// written again at once, not at the next heartbeat.
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

// The API server's reasons for refusing a node's certificate: it was revoked, or is unknown.
const (
	causeRemoved metav1.CauseType = "NodeRemoved"
	causeUnknown metav1.CauseType = "NodeUnknown"
)

// noteRemoval says whether err is the API server's refusal of a removed node, and calls Removed if so. It also calls Unknown if err
// refuses the node as unknown, which is no removal: the cluster's state may have been restored from before the node joined.
func (n *Node) noteRemoval(err error) bool {
	if apierrors.HasStatusCause(err, causeUnknown) {
		n.noteUnknown(true, err)
	}
	if !apierrors.HasStatusCause(err, causeRemoved) {
		return false
	}
	n.removal.Do(func() {
		slog.Error("this node was removed from the cluster and its certificate is refused: its pods end. To have it join again, make a token (skep token create) and start the agent with it; to clean up, stop the agent and run skep-agent cleanup",
			"node", n.cfg.Name, "err", err)
		if n.cfg.Removed != nil {
			n.cfg.Removed()
		}
	})
	return true
}

// noteUnknown logs once when the API server begins to refuse this node as unknown, and when it accepts it again.
func (n *Node) noteUnknown(unknown bool, err error) {
	n.mu.Lock()
	changed := n.unknown != unknown
	n.unknown = unknown
	n.mu.Unlock()
	switch {
	case !changed:
	case !unknown:
		slog.Info("this node is a member of the cluster again", "node", n.cfg.Name)
	default:
		slog.Error("the cluster does not know this node's certificate, as after a restore from before the node joined: its pods run on, and nothing of them changes until it joins again. Make a token (skep token create --node with its name) and start the agent with it",
			"node", n.cfg.Name, "err", err)
		if n.cfg.Unknown != nil {
			n.cfg.Unknown()
		}
	}
}

// clearOverruled says whether another client has overwritten the API's status since the last call.
func (n *Node) clearOverruled() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	overruled := n.overruled
	n.overruled = false
	return overruled
}

// Register creates the Node object or adopts the one of this name, and returns the ranges that the cluster assigned to its pods. It
// retries until the API server answers.
func (n *Node) Register(ctx context.Context) (podCIDRs []netip.Prefix, err error) {
	register := backoff.Retry{
		First: retryFirst, Last: retryMax, Final: isRefused, Attrs: []any{"node", n.cfg.Name},
		Failing: "node not registered; trying again", Working: "node registered",
	}
	err = register.Do(ctx, func(ctx context.Context) (err error) {
		podCIDRs, err = n.register(ctx)
		return err
	})
	return podCIDRs, err
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
	if n.noteRemoval(err) {
		return nil, &RefusedError{Reason: fmt.Sprintf("node %s was removed from the cluster", n.cfg.Name), Removed: true}
	}
	if apierrors.HasStatusCause(err, causeUnknown) {
		return nil, &RefusedError{Reason: err.Error(), Unknown: true}
	}
	if apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
		return nil, &RefusedError{Reason: fmt.Sprintf("the API server refuses node %s: %v", n.cfg.Name, err)}
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

// create creates the Node object. The API server chooses its pod ranges.
func (n *Node) create(ctx context.Context) (*corev1.Node, error) {
	obj := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.cfg.Name, Labels: n.labels()}}
	return n.cfg.Client.CoreV1().Nodes().Create(ctx, obj, metav1.CreateOptions{})
}

// awaitPodCIDR waits until the pod ranges are assigned, if the API server itself does not assign them.
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
	return nil, fmt.Errorf("node %s has no pod range yet", n.cfg.Name)
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

// labelValue makes a version valid as a label's value.
func labelValue(s string) string {
	b := []byte(s)
	for i, c := range b {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '-' || c == '_') {
			b[i] = '_'
		}
	}
	return string(b[:min(len(b), 63)])
}

// syncLabels sets the agent's labels and keeps all others. A registered node may only change those about facts of its host; the
// others are the administrator's.
func (n *Node) syncLabels(ctx context.Context, obj *corev1.Node) error {
	missing := map[string]string{}
	for key, value := range n.labels() {
		if obj.Labels[key] != value {
			missing[key] = value
		}
	}
	for key := range n.cfg.Labels {
		if value, other := missing[key]; other {
			slog.Warn("a label of --labels differs from the Node object's, which is kept: change it with skep label node", "node", n.cfg.Name, "label", key, "value", value)
			delete(missing, key)
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

// Run writes the status when it changes and renews the lease every second, until ctx ends or the node is removed from the cluster.
func (n *Node) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { n.RenewLease(ctx) })
	defer running.Wait()
	defer cancel()
	var last *corev1.NodeStatus
	var written time.Time
	unsure := false // the last write may have taken effect although it failed
	ticker := time.NewTicker(statusInterval)
	defer ticker.Stop()
	wait := backoff.New(retryFirst, retryMax)
	for {
		if n.clearOverruled() {
			last = nil
		}
		status, err := n.status(ctx, n.before(last))
		if err == nil && (last == nil || unsure || time.Since(written) > statusHeartbeat || !sameStatus(last, status)) {
			err = n.writeStatus(ctx, status)
			if unsure = err != nil; !unsure {
				last, written = status, time.Now()
			}
		}
		if n.noteRemoval(err) {
			<-ctx.Done()
			return nil
		}
		if err != nil && ctx.Err() == nil {
			if !wait.Failing() {
				slog.Warn("node status not written; trying again", "node", n.cfg.Name, "err", err)
			}
			if wait.Wait(ctx) != nil {
				return nil
			}
			continue
		}
		if wait.Failing() {
			slog.Info("node status written again", "node", n.cfg.Name)
		}
		wait.Reset()
		select {
		case <-ctx.Done():
			return nil
		case <-n.changed:
		case <-ticker.C:
		}
	}
}

// before is the last status, whichever client wrote it.
func (n *Node) before(last *corev1.NodeStatus) *corev1.NodeStatus {
	if last != nil {
		return last
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.known
}
