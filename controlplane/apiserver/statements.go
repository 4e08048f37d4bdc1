package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/controlplane/identity"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/witness"
)

const (
	// maxStatements bounds one request: a verdict has as many as a node has watchers.
	maxStatements = 64
	// evidenceRefresh is how often a verdict that still holds is written again.
	evidenceRefresh = 5 * time.Second
)

// verdicts collects what nodes say of each other, and writes the verdicts that follow into the Nodes' conditions. Statements are verified
// here, whoever sends them; what the verdicts cause is the node controller's to decide.
type verdicts struct {
	registry *resource.Registry

	mu        sync.Mutex
	collected *witness.Verdicts
}

func newVerdicts(registry *resource.Registry) *verdicts {
	return &verdicts{registry: registry, collected: witness.NewVerdicts()}
}

// acceptStatements answers PathStatements of a node.
func (s *Server) acceptStatements(w http.ResponseWriter, c *call) error {
	body, err := readBody(c.Request)
	if err != nil {
		return err
	}
	var list []skepv1.Statement
	if err := json.Unmarshal(body, &list); err != nil {
		return apierrors.NewBadRequest("statements: " + err.Error())
	}
	if len(list) > maxStatements {
		return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("statements: %d in one request, at most %d are accepted", len(list), maxStatements))
	}
	if err := s.verdicts.add(c.Context(), list, time.Now()); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// add collects statements, and writes the conditions of the nodes that they are about. Statements that do not count are an error of the
// client, but do not keep others from counting.
func (v *verdicts) add(ctx context.Context, list []skepv1.Statement, now time.Time) error {
	var refused []error
	var found []witness.Change
	v.mu.Lock()
	v.collected.SetNodes(v.nodes(), now)
	for _, s := range list {
		_, err := v.collected.Add(s, now)
		if err != nil && !errors.Is(err, witness.ErrKnown) {
			refused = append(refused, err)
			continue
		}
		if slices.ContainsFunc(found, func(c witness.Change) bool { return c.Node == s.Subject }) {
			continue
		}
		found = append(found, witness.Change{Node: s.Subject})
	}
	watchers := map[string]int{}
	for i := range found {
		watchers[found[i].Node] = len(v.collected.Ring().Watchers(found[i].Node))
		found[i] = v.collected.Verdict(found[i].Node, now)
	}
	v.mu.Unlock()
	for _, verdict := range found {
		if err := v.write(ctx, verdict, watchers[verdict.Node], now); err != nil {
			return err
		}
	}
	if len(refused) > 0 {
		return apierrors.NewBadRequest("statements: " + errors.Join(refused...).Error())
	}
	return nil
}

func (v *verdicts) nodes() (nodes []witness.Node) {
	for _, n := range resource.ListAs[*corev1.Node](v.registry, kinds.Nodes, "", nil) {
		nodes = append(nodes, witness.FromObject(n))
	}
	return nodes
}

// write publishes a verdict in the node's condition. That there is none any more is published only if so many watchers say that they
// reach the node that the others cannot make a verdict: this server may not have all of their statements.
func (v *verdicts) write(ctx context.Context, verdict witness.Change, watchers int, now time.Time) error {
	cond := corev1.NodeCondition{Type: witness.Reachable, Status: corev1.ConditionFalse, Reason: witness.ReasonUnreachable}
	witnesses := names(verdict.Evidence, false)
	cond.Message = "cannot be reached by " + strings.Join(witnesses, ", ")
	if !verdict.Down {
		witnesses = names(verdict.Evidence, true)
		if watchers-len(witnesses) >= witness.Needed {
			return nil
		}
		cond.Status, cond.Reason = corev1.ConditionTrue, witness.ReasonReachable
		cond.Message = "reached by " + strings.Join(witnesses, ", ")
	}
	ctx = identity.With(ctx, identity.APIServer)
	_, err := v.registry.Modify(ctx, kinds.Nodes, "status", "", verdict.Node, resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		n := current.(*corev1.Node)
		if !worthWriting(n, cond, now) {
			return n, nil
		}
		n = n.DeepCopy()
		n.ResourceVersion = ""
		setCondition(n, cond, metav1.NewTime(now))
		return n, nil
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// worthWriting says whether the condition differs from the node's, or is a verdict that was written long ago. A node without a verdict needs no
// condition.
func worthWriting(n *corev1.Node, cond corev1.NodeCondition, now time.Time) bool {
	for i := range n.Status.Conditions {
		if has := &n.Status.Conditions[i]; has.Type == cond.Type {
			return has.Status != cond.Status || cond.Status == corev1.ConditionFalse && now.Sub(has.LastHeartbeatTime.Time) >= evidenceRefresh
		}
	}
	return cond.Status == corev1.ConditionFalse
}

func setCondition(n *corev1.Node, cond corev1.NodeCondition, now metav1.Time) {
	cond.LastHeartbeatTime, cond.LastTransitionTime = now, now
	for i := range n.Status.Conditions {
		has := &n.Status.Conditions[i]
		if has.Type != cond.Type {
			continue
		}
		if has.Status == cond.Status {
			cond.LastTransitionTime = has.LastTransitionTime
		}
		*has = cond
		return
	}
	n.Status.Conditions = append(n.Status.Conditions, cond)
}

// names are the witnesses that say so.
func names(evidence []skepv1.Statement, reachable bool) (list []string) {
	for _, s := range evidence {
		if s.Reachable == reachable {
			list = append(list, s.Witness)
		}
	}
	return list
}
