package scheduler

// A plugin is a filter, a score, or both, in one file, and a line in filters or namedScores (profile.go). For each pod it makes what decides for this pod; that is
// asked for hundreds of hosts, so it looks up beforehand all that does not depend on the host.

// filter keeps pods from hosts.
type filter interface {
	// check returns what decides for a pod; nil if the pod may be on every host. c.mu is held, also while it decides.
	check(c *cluster, req *request) check
}

// check decides for one pod.
type check interface {
	fits(h *host) bool
	// explain says why the pod does not fit a host, in Kubernetes' words, and whether it may once pods are removed from the host.
	explain(h *host) (reasons []string, curable bool)
}

// universalRefusal is what a check may have besides: it says why the pod fits nowhere whatever the hosts are.
type universalRefusal interface {
	refusesAll() string
}

// score prefers some hosts to others.
type score interface {
	// rating returns what rates the hosts for a pod; nil if all are equal.
	rating(c *cluster, req *request) rating
}

// rating rates the hosts on which a pod fits.
type rating interface {
	// rate writes the hosts' scores, 0 to maxScore each, in the order of the hosts.
	rate(hosts []*host, scores []int64)
}

// maxScore is the best score of a host.
const maxScore = 100

// filters are in the order in which they are asked: the first that refuses a host is the one that explains it, as in Kubernetes.
var filters = []filter{claimFilter{}, nodeStateFilter{}, nodeAffinityFilter{}, portFilter{}, resourceFilter{}, spreadFilter{}, podAffinityFilter{}}

// stretch scales ratings from 0 so that the highest is maxScore; with reverse, the lowest are the best.
func stretch(ratings []int64, reverse bool) {
	highest := int64(0)
	for _, r := range ratings {
		highest = max(highest, r)
	}
	for i, r := range ratings {
		if highest > 0 {
			r = maxScore * r / highest
		}
		if reverse {
			r = maxScore - r
		}
		ratings[i] = r
	}
}
