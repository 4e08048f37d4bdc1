package scheduler

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/controlplane/event"
)

// profile is how the pods with one schedulerName are scheduled.
type profile struct {
	name    string
	filters []filter
	scores  []weightedScore
	// share is the per cent of hosts at which a search stops that has found so many fitting ones; 0: by the number of hosts.
	share int
	// preempts says whether pods of lower priority are removed for one that fits nowhere.
	preempts bool
	// candidateShare and minCandidates say how many candidates for preemption a search looks for: a share of the hosts in per cent, and at least
	// so many.
	candidateShare, minCandidates int

	scheduledSeconds, unschedulableSeconds prometheus.Observer
}

// weightedScore is a score and how much it counts beside the others of its profile.
type weightedScore struct {
	score
	weight int64
}

// namedScores are the scores by Kubernetes' names, with Kubernetes' weights, in the order in which they are asked.
var namedScores = []struct {
	name   string
	score  score
	weight int64
}{
	{"TaintToleration", taintScore{}, 3},
	{"NodeAffinity", nodeAffinityScore{}, 2},
	{"NodeResourcesFit", leastAllocatedScore{}, 1},
	{"PodTopologySpread", spreadScore{}, 2},
	{"InterPodAffinity", podAffinityScore{}, 2},
	{"NodeResourcesBalancedAllocation", balanceScore{}, 1},
	{"ImageLocality", imageScore{}, 1},
}

func newProfile(name string) *profile {
	p := &profile{name: name, filters: filters, preempts: true, candidateShare: 10, minCandidates: 100}
	p.scheduledSeconds, p.unschedulableSeconds = attempts.WithLabelValues("scheduled", name), attempts.WithLabelValues("unschedulable", name)
	for _, s := range namedScores {
		p.scores = append(p.scores, weightedScore{s.score, s.weight})
	}
	return p
}

// Configuration says how pods are scheduled.
type Configuration struct {
	profiles               map[string]*profile // by schedulerName
	minBackoff, maxBackoff time.Duration       // of a pod whose binding failed
}

// DefaultConfiguration is Kubernetes': one profile, default-scheduler.
func DefaultConfiguration() *Configuration {
	return &Configuration{
		profiles:   map[string]*profile{corev1.DefaultSchedulerName: newProfile(corev1.DefaultSchedulerName)},
		minBackoff: time.Second, maxBackoff: 10 * time.Second,
	}
}

// of returns the profile of a pod; nil: the pod is another scheduler's.
func (c *Configuration) of(pod *corev1.Pod) *profile {
	if pod.Spec.SchedulerName == "" {
		return c.profiles[corev1.DefaultSchedulerName]
	}
	return c.profiles[pod.Spec.SchedulerName]
}

// Recorders are where the events of the profiles go: each has its schedulerName as its component, as in Kubernetes.
type Recorders map[string]*event.Recorder

// NewRecorders makes a recorder for each profile; start runs it.
func (c *Configuration) NewRecorders(start func(component string) *event.Recorder) Recorders {
	of := Recorders{}
	for name := range c.profiles {
		of[name] = start(name)
	}
	return of
}

func (s *Scheduler) recorder(pod *corev1.Pod) *event.Recorder {
	name := pod.Spec.SchedulerName
	if name == "" {
		name = corev1.DefaultSchedulerName
	}
	return s.recorders[name]
}

// profileOf returns the profile by which a pod is placed.
func (c *cluster) profileOf(req *request) *profile {
	if req.profile == nil {
		if req.profile = c.configuration.of(req.pod); req.profile == nil {
			req.profile = newProfile(req.pod.Spec.SchedulerName)
		}
	}
	return req.profile
}
