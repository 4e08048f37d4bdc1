package usage

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
)

// Config says which pods are measured, and how often.
type Config struct {
	// Pods are the node's pods, by UID.
	Pods func() []string
	// Trees are a pod's present trees. One whose path cannot be determined is omitted.
	Trees func(ctx context.Context, uid string) []Tree
	// Measured is called after each measurement of a pod, and when one that is under way has found more than the last figure.
	Measured func(uid string, pod Pod)
	// Interval is the minimum time between the end of a pod's measurement and the next; 5 s when 0.
	Interval time.Duration
}

const (
	// slice is how long one pod is measured before it is another's turn.
	slice = 100 * time.Millisecond
	// A measurement that takes long is repeated so rarely that it uses a twentieth of a processor, but once in maxInterval.
	costFactor  = 20
	maxInterval = time.Minute
	// maxCost is the time after which a measurement is given up: the greater of the last figure and the part found so far
	// counts. A long count gets too large, since it includes files that are removed while it runs.
	maxCost = 2 * time.Minute
	// listInterval is how often the node's pods are listed.
	listInterval = time.Second
)

// Meter measures the node's pods. All methods may be called concurrently.
type Meter struct {
	cfg     Config
	slice   time.Duration
	maxCost time.Duration

	mu     sync.Mutex
	latest map[string]Pod // by UID
}

// New returns a meter that measures nothing before Run.
func New(cfg Config) *Meter {
	if cfg.Interval == 0 {
		cfg.Interval = 5 * time.Second
	}
	return &Meter{cfg: cfg, slice: slice, maxCost: maxCost, latest: map[string]Pod{}}
}

// Pod is a pod's use as last measured; ok is false before the first measurement.
func (m *Meter) Pod(uid string) (pod Pod, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	pod, ok = m.latest[uid]
	return pod, ok
}

// measurement is the measurement of one pod, under way or due. Only Run uses it.
type measurement struct {
	uid   string
	due   time.Time // for its next turn
	trees []Tree    // not measured yet; nil between measurements
	under *count    // of the first of them
	found map[Key]Amount
	rooms map[Key]Amount
	cost  time.Duration
	began bool
	err   error // the last logged error
}

// Run measures until ctx ends.
func (m *Meter) Run(ctx context.Context) error {
	here := map[string]*measurement{}
	defer func() {
		for _, one := range here {
			one.stop()
		}
	}()
	var listed time.Time
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		now := time.Now()
		if now.Sub(listed) >= listInterval {
			m.list(here, now)
			listed = now
		}
		wait := listInterval
		if len(here) > 0 {
			next := slices.MinFunc(slices.Collect(maps.Values(here)), func(a, b *measurement) int {
				return cmp.Or(a.due.Compare(b.due), cmp.Compare(a.uid, b.uid))
			})
			if !now.Before(next.due) {
				m.turn(ctx, next)
				wait = 0
			} else {
				wait = min(wait, next.due.Sub(now))
			}
		}
		timer.Reset(wait)
	}
}

// list adds new pods and drops removed ones.
func (m *Meter) list(here map[string]*measurement, now time.Time) {
	present := map[string]bool{}
	for _, uid := range m.cfg.Pods() {
		present[uid] = true
		if here[uid] == nil {
			here[uid] = &measurement{uid: uid, due: now}
		}
	}
	for uid, one := range here {
		if !present[uid] {
			one.stop()
			delete(here, uid)
			m.mu.Lock()
			delete(m.latest, uid)
			m.mu.Unlock()
		}
	}
}

// turn measures a pod for one slice, or to its end.
func (m *Meter) turn(ctx context.Context, one *measurement) {
	start := time.Now()
	if !one.began {
		one.began, one.found, one.rooms, one.cost = true, map[Key]Amount{}, map[Key]Amount{}, 0
		one.trees = m.cfg.Trees(ctx, one.uid)
	}
	until := start.Add(m.slice)
	for len(one.trees) > 0 && time.Now().Before(until) {
		if one.goOn(until) {
			one.trees = one.trees[1:]
		}
	}
	if ctx.Err() != nil {
		return
	}
	now := time.Now()
	one.cost += now.Sub(start)
	complete := len(one.trees) == 0
	m.publish(one, complete, now)
	if !complete && one.cost < m.maxCost {
		one.due = now // after those that are due already
		return
	}
	if !complete {
		slog.Warn("disk use of a pod not measured in time; what is known stays", "uid", one.uid, "path", one.trees[0].Path, "took", one.cost)
		one.stop()
	}
	one.began = false
	one.due = now.Add(max(m.cfg.Interval, min(costFactor*one.cost, maxInterval)))
}

// goOn measures the first remaining tree, and says whether that is done.
func (one *measurement) goOn(until time.Time) (done bool) {
	tree := one.trees[0]
	var err error
	switch {
	case tree.Kind == Memory:
		one.found[tree.Key], one.rooms[tree.Key], err = inMemory(tree.Path)
		done = true
	case one.under == nil && tree.Counted && one.ask(tree):
		done = true
	case one.under == nil:
		if one.under, err = begin(tree.Path); err != nil {
			one.under, done = nil, true
		}
	default:
		done, err = one.under.goOn(until)
		one.found[tree.Key] = one.under.amount()
		if done {
			one.stop()
		}
	}
	if err != nil && (one.err == nil || one.err.Error() != err.Error()) {
		slog.Warn("disk use of a pod not measured whole", "uid", one.uid, "path", tree.Path, "err", err)
		one.err = err
	}
	return done
}

// ask uses the kernel's count of a tree, and says whether there is one.
func (one *measurement) ask(tree Tree) bool {
	amount, ok, err := counted(tree.Path)
	if err != nil || !ok {
		return false
	}
	one.found[tree.Key] = amount
	return true
}

func (one *measurement) stop() {
	if one.under != nil {
		one.under.close()
		one.under = nil
	}
}

// publish publishes figures. Those of an incomplete measurement can only raise the last ones.
func (m *Meter) publish(one *measurement, complete bool, now time.Time) {
	m.mu.Lock()
	known := m.latest[one.uid]
	pod := Pod{At: now, Trees: one.found, Rooms: one.rooms}
	if !complete {
		pod = Pod{At: known.At, Trees: maps.Clone(one.found), Rooms: known.Rooms}
		for key, amount := range known.Trees {
			pod.Trees[key] = pod.Trees[key].atLeast(amount)
		}
	}
	m.latest[one.uid] = pod
	m.mu.Unlock()
	if m.cfg.Measured != nil {
		m.cfg.Measured(one.uid, pod)
	}
}
