package service

import "slices"

// queue holds what the reconciler has to apply, each name once: nodes before
// urgent services before the others, those in the order of their change.
type queue struct {
	nodes  []string
	urgent []string
	names  []string
	queued map[string]bool // service -> in urgent
	sweep  bool            // Synced was called
	hosts  bool            // addresses of nodes changed

	generation uint64 // of the desired state
	tried      uint64 // every urgent service of it was applied or has failed
	settled    uint64 // the maps equal it
	closed     bool
}

func (q *queue) add(urgent bool, names ...string) {
	if q.queued == nil {
		q.queued = map[string]bool{}
	}
	for _, name := range names {
		inUrgent, present := q.queued[name]
		switch {
		case urgent && !inUrgent:
			if present {
				q.names = slices.DeleteFunc(q.names, func(n string) bool { return n == name })
			}
			q.urgent = append(q.urgent, name)
			q.queued[name] = true
		case !present:
			q.names = append(q.names, name)
			q.queued[name] = false
		}
	}
}

func (q *queue) addNode(name string) {
	if !slices.Contains(q.nodes, name) {
		q.nodes = append(q.nodes, name)
	}
}

// work is one thing to apply.
type work struct {
	node, service string
	hosts         bool
}

// pop removes the next piece of work; zero if there is none.
func (q *queue) pop() work {
	if q.hosts {
		q.hosts = false
		return work{hosts: true}
	}
	for _, list := range []*[]string{&q.nodes, &q.urgent, &q.names} {
		if len(*list) == 0 {
			continue
		}
		name := (*list)[0]
		*list = (*list)[1:]
		if list == &q.nodes {
			return work{node: name}
		}
		delete(q.queued, name)
		return work{service: name}
	}
	return work{}
}

func (q *queue) urgentDone() bool { return !q.hosts && len(q.nodes) == 0 && len(q.urgent) == 0 }
