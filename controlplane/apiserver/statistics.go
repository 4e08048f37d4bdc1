package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/skep-io/skep/controlplane/resource"
)

const (
	// statsFresh is how long a node's sample answers every request, statsKept how long it is used for a node that does not answer.
	statsFresh = 2 * time.Second
	statsKept  = 30 * time.Second
	// statsTimeout bounds the time for one agent: one that does not answer must not delay the others' figures.
	statsTimeout = 900 * time.Millisecond
	// statsParallel bounds the agents asked at once.
	statsParallel = 64
	maxSummary    = 16 << 20
)

// statistics asks agents for what containers use, on request.
type statistics struct {
	registry *resource.Registry
	agents   *agents

	mu    sync.Mutex
	nodes map[string]*nodeSample
}

// nodeSample is the last summary of a node. Its lock is held while the agent is asked, so that many requests at once cost one call to the
// agent.
type nodeSample struct {
	mu      sync.Mutex
	asked   time.Time
	taken   time.Time
	summary *statsv1alpha1.Summary
}

func newStatistics(registry *resource.Registry, agents *agents) *statistics {
	return &statistics{registry: registry, agents: agents, nodes: map[string]*nodeSample{}}
}

// collect returns the summaries of nodes, in their order; nil where there is none.
func (s *statistics) collect(ctx context.Context, nodes []*corev1.Node) []*statsv1alpha1.Summary {
	ctx, cancel := context.WithTimeout(ctx, statsTimeout)
	defer cancel()
	summaries := make([]*statsv1alpha1.Summary, len(nodes))
	places := make(chan struct{}, statsParallel)
	var group sync.WaitGroup
	for i, node := range nodes {
		places <- struct{}{}
		group.Go(func() {
			defer func() { <-places }()
			summaries[i] = s.sample(ctx, node)
		})
	}
	group.Wait()
	return summaries
}

func (s *statistics) sample(ctx context.Context, node *corev1.Node) *statsv1alpha1.Summary {
	s.mu.Lock()
	sample, ok := s.nodes[string(node.UID)]
	if !ok {
		sample = &nodeSample{}
		s.nodes[string(node.UID)] = sample
		s.forget()
	}
	s.mu.Unlock()
	sample.mu.Lock()
	defer sample.mu.Unlock()
	if time.Since(sample.asked) > statsFresh {
		sample.asked = time.Now()
		if summary, err := s.ask(ctx, node); err == nil {
			sample.summary, sample.taken = summary, time.Now()
		} else {
			slog.Debug("Node returned no statistics", "node", node.Name, "err", err)
		}
	}
	if time.Since(sample.taken) > statsKept {
		return nil
	}
	return sample.summary
}

// forget drops samples that nobody has asked for in a while: their nodes may be deleted. The caller holds s.mu.
func (s *statistics) forget() {
	for uid, sample := range s.nodes {
		if sample.mu.TryLock() {
			if !sample.asked.IsZero() && time.Since(sample.asked) > 10*time.Minute {
				delete(s.nodes, uid)
			}
			sample.mu.Unlock()
		}
	}
}

func (s *statistics) ask(ctx context.Context, node *corev1.Node) (*statsv1alpha1.Summary, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, agentURL(node.Name, "/stats/summary", nil).String(), nil)
	if err != nil {
		return nil, err
	}
	response, err := s.agents.transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the agent of node %s answered %s", node.Name, response.Status)
	}
	summary := &statsv1alpha1.Summary{}
	if err := json.NewDecoder(io.LimitReader(response.Body, maxSummary)).Decode(summary); err != nil {
		return nil, fmt.Errorf("summary of the agent of node %s: %w", node.Name, err)
	}
	return summary, nil
}
