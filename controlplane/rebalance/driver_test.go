package rebalance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	skepv1 "github.com/skep-io/skep/api/v1"
)

// script is a cluster that plans the move of one replica from a to c as long as there are two on a, and does with evictions what a test says.
type script struct {
	nodes   map[string]string // of replicas by UID
	evict   func(s *script, uid string) error
	evicted int
}

func (s *script) Plan(_ context.Context, except []string) (plan skepv1.RebalancePlan, err error) {
	if slices.Contains(except, "default/replicaset/web") {
		return plan, nil
	}
	var on []string
	for uid, node := range s.nodes {
		if node == "a" {
			on = append(on, uid)
		}
	}
	if len(on) > 1 {
		plan.Moves = []skepv1.RebalanceMove{{Workload: "default/replicaset/web", UID: slices.Max(on), Pod: slices.Max(on), From: "a", To: "c", Reason: "2 of 3 are there"}}
	}
	return plan, nil
}

func (s *script) Evict(_ context.Context, m skepv1.RebalanceMove) error {
	s.evicted++
	return s.evict(s, m.UID)
}

func (s *script) Replicas(context.Context, skepv1.RebalanceMove) (of []Replica, err error) {
	for uid, node := range s.nodes {
		of = append(of, Replica{UID: uid, Node: node, Ready: node != ""})
	}
	return of, nil
}

// replacedOn replaces an evicted pod on a node; "": it does not become ready.
func replacedOn(node string) func(*script, string) error {
	return func(s *script, uid string) error {
		delete(s.nodes, uid)
		s.nodes[fmt.Sprint(uid, "-new", s.evicted)] = node
		return nil
	}
}

func refused(*script, string) error { return apierrors.NewTooManyRequests("Cannot evict pod", 0) }

// Whatever becomes of an eviction, the driver ends, and evicts no pod for nothing twice.
func TestDriverEnds(t *testing.T) {
	for _, tt := range []struct {
		name    string
		evict   func(*script, string) error
		moved   int
		evicted int
		says    []string
	}{
		{"as planned", replacedOn("c"), 1, 1, []string{"moved from a to c: 2 of 3 are there"}},
		{"elsewhere", replacedOn("b"), 1, 1, []string{"moved from a to b"}},
		{"on the same node", replacedOn("a"), 1, 1, []string{"left alone: a replacement that was expected on c was placed on a"}},
		{"never ready", replacedOn(""), 1, 1, []string{"left alone: its replicas are not all ready"}},
		{"refused for good", refused, 0, 2, []string{"waiting for its disruption budget", "left alone: its disruption budget has allowed no eviction"}},
		{"refused at first", func(s *script, uid string) error {
			if s.evicted == 1 {
				return refused(s, uid)
			}
			return replacedOn("c")(s, uid)
		}, 1, 2, []string{"waiting for its disruption budget", "moved from a to c"}},
		{"another has removed it", func(s *script, uid string) error {
			s.nodes[uid] = "c"
			return apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, uid)
		}, 0, 1, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, said := &script{nodes: map[string]string{"1": "a", "2": "a", "3": "b"}, evict: tt.evict}, ""
			d := &Driver{Cluster: s, Timeout: time.Second, Say: func(line string) { said += line + "\n" }}
			moved := 0
			for more := true; more; {
				var err error
				if more, err = d.Step(t.Context()); err != nil {
					t.Fatal(err)
				}
				if more {
					moved++
				}
			}
			if moved != tt.moved || s.evicted != tt.evicted {
				t.Errorf("%d moved, %d evictions, want %d and %d", moved, s.evicted, tt.moved, tt.evicted)
			}
			for _, part := range tt.says {
				if !strings.Contains(said, part) {
					t.Errorf("it said\n%s, which lacks %q", said, part)
				}
			}
		})
	}
}

// An error of the API that is not about the pod ends the run, and so does the context.
func TestDriverStops(t *testing.T) {
	failed := errors.New("no route to host")
	s := &script{nodes: map[string]string{"1": "a", "2": "a"}, evict: func(*script, string) error { return failed }}
	d := &Driver{Cluster: s, Timeout: time.Minute, Say: func(string) {}}
	if _, err := d.Step(t.Context()); !errors.Is(err, failed) {
		t.Errorf("got %v, want %v", err, failed)
	}
	s.evict = replacedOn("")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := d.Step(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the end of the context", err)
	}
}
