package watchcache

// The triggers that every kind has besides its indexes.
const (
	ByNamespace = "metadata.namespace"
	ByName      = "metadata.name"
)

// Trigger says that a watch sees only objects that have Value in an index, or with
// ByNamespace or ByName in their metadata. An event costs nothing for watches whose
// trigger it does not meet.
type Trigger struct{ Index, Value string }

// watchers are all watches of a cache, found by their triggers.
type watchers struct {
	all       map[*Watcher]struct{} // those without a trigger
	triggered map[string]map[string]map[*Watcher]struct{}
	values    map[string]func(Resource) []string
}

func newWatchers(indexes map[string]func(Resource) []string) watchers {
	w := watchers{
		all:       map[*Watcher]struct{}{},
		triggered: map[string]map[string]map[*Watcher]struct{}{},
		values: map[string]func(Resource) []string{
			ByNamespace: func(r Resource) []string { return []string{r.GetNamespace()} },
			ByName:      func(r Resource) []string { return []string{r.GetName()} },
		},
	}
	for name, values := range indexes {
		w.values[name] = values
	}
	for name := range w.values {
		w.triggered[name] = map[string]map[*Watcher]struct{}{}
	}
	return w
}

// set is the set that a watch with this trigger belongs to; make creates it.
func (ws *watchers) set(t *Trigger, create bool) map[*Watcher]struct{} {
	if t == nil || ws.triggered[t.Index] == nil {
		return ws.all
	}
	set := ws.triggered[t.Index][t.Value]
	if set == nil && create {
		set = map[*Watcher]struct{}{}
		ws.triggered[t.Index][t.Value] = set
	}
	return set
}

func (ws *watchers) add(w *Watcher) { ws.set(w.trigger, true)[w] = struct{}{} }

func (ws *watchers) remove(w *Watcher) {
	set := ws.set(w.trigger, false)
	delete(set, w)
	if t := w.trigger; len(set) == 0 && t != nil && ws.triggered[t.Index] != nil {
		delete(ws.triggered[t.Index], t.Value)
	}
}

// dispatch queues an event at all watches that it may concern, each once.
func (ws *watchers) dispatch(ev Event) {
	for w := range ws.all {
		ws.queue(w, ev)
	}
	for name, sets := range ws.triggered {
		if len(sets) == 0 {
			continue
		}
		values := ws.values[name]
		now := values(ev.Object.value)
		for i, v := range now {
			if !contains(now[:i], v) {
				ws.queueAll(sets[v], ev)
			}
		}
		if ev.Previous == nil {
			continue
		}
		before := values(ev.Previous.value)
		for i, v := range before {
			if !contains(now, v) && !contains(before[:i], v) {
				ws.queueAll(sets[v], ev)
			}
		}
	}
}

func contains(values []string, v string) bool {
	for _, have := range values {
		if have == v {
			return true
		}
	}
	return false
}

func (ws *watchers) queueAll(set map[*Watcher]struct{}, ev Event) {
	for w := range set {
		ws.queue(w, ev)
	}
}

func (ws *watchers) queue(w *Watcher, ev Event) {
	if !w.push(ev) {
		ws.remove(w)
	}
}
