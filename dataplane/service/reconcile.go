package service

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/skep-io/skep/backoff"
	"github.com/skep-io/skep/bpf"
)

const (
	firstRetry = 50 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// reconciler is the one goroutine that writes the maps.
type reconciler struct {
	plane   *Plane
	in      *installed
	pending bool // programs still read the maps of an older layout

	failed  map[string]struct{} // services to apply again after the delay
	nodes   map[string]struct{} // nodes to write again after the delay
	hosts   bool                // addresses to write again after the delay
	rest    bool                // orphans or activation to try again
	retries *backoff.Backoff
	retired chan *retired // to the grace loop
	freed   chan *retired // back from it
}

// run works until ctx ends. It never sleeps while there is work, except for the
// delay after a failed write, during which other services are still applied.
func (r *reconciler) run(ctx context.Context) {
	r.failed, r.nodes = map[string]struct{}{}, map[string]struct{}{}
	r.retries = backoff.New(firstRetry, lastRetry)
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		r.drain(ctx)
		retry.Stop()
		if r.failing() {
			retry.Reset(r.retries.Next())
		} else {
			r.retries.Reset()
		}
		if !r.wait(ctx, retry.C) {
			return
		}
	}
}

func (r *reconciler) wait(ctx context.Context, retry <-chan time.Time) bool {
	for {
		var retire chan<- *retired
		if len(r.retired) == 0 && !r.in.retired.empty() {
			retire = r.retired
		}
		select {
		case <-ctx.Done():
			return false
		case <-r.plane.wake:
			return true
		case <-retry:
			r.requeue()
			return true
		case batch := <-r.freed:
			r.in.release(batch)
		case retire <- r.in.retired:
			r.in.retired = &retired{}
		}
	}
}

func (r *reconciler) failing() bool { return len(r.failed)+len(r.nodes) > 0 || r.hosts || r.rest }

func (r *reconciler) requeue() {
	p := r.plane
	p.mu.Lock()
	defer p.mu.Unlock()
	for name := range r.failed {
		p.queue.add(false, name)
	}
	for name := range r.nodes {
		p.queue.addNode(name)
	}
	p.queue.sweep = p.queue.sweep || r.rest
	p.queue.hosts = p.queue.hosts || r.hosts
	clear(r.failed)
	clear(r.nodes)
	r.hosts, r.rest = false, false
}

// drain applies everything that is queued.
func (r *reconciler) drain(ctx context.Context) {
	for ctx.Err() == nil {
		next, more := r.next()
		switch {
		case next.hosts:
			r.applyHosts()
		case next.node != "":
			r.applyNode(next.node)
		case next.service != "":
			r.applyService(next.service)
		case !more:
			return
		}
	}
}

// next returns a piece of work, or settles if there is none: under the same lock,
// so that no change can be missed in between.
func (r *reconciler) next() (next work, more bool) {
	p := r.plane
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.queue.urgentDone() && p.queue.tried < p.queue.generation {
		p.queue.tried = p.queue.generation
		p.broadcast()
	}
	if next = p.queue.pop(); next != (work{}) {
		return next, true
	}
	if p.queue.sweep && !r.swept() {
		return work{}, !p.queueEmpty()
	}
	if p.queueEmpty() && !r.failing() && p.queue.settled < p.queue.generation {
		p.queue.settled, p.lastErr = p.queue.generation, nil
		p.broadcast()
	}
	return work{}, !p.queueEmpty()
}

func (p *Plane) queueEmpty() bool {
	return p.queue.urgentDone() && len(p.queue.names) == 0 && !p.queue.sweep
}

// swept removes leftovers of an earlier process once every desired service is
// installed, then moves the programs to new maps if they wait for that. False
// if there is more work first. p.mu is held.
func (r *reconciler) swept() bool {
	p := r.plane
	p.queue.sweep = false
	if len(r.failed) > 0 { // a service that is not installed yet may need leftovers
		r.rest = true
		return false
	}
	leftover := false
	for _, name := range r.in.names() {
		if _, ok := p.tables.services[name]; !ok {
			p.queue.add(false, name)
			leftover = true
		}
	}
	for name := range r.in.nodes {
		if p.tables.desiredNode(name) != r.in.nodes[name].record {
			p.queue.addNode(name)
			leftover = true
		}
	}
	if leftover {
		p.queue.sweep = true
		return false
	}
	err := r.in.dropOrphans()
	if err == nil && r.pending {
		if err = p.activate(); err == nil {
			r.pending = false
		}
	}
	if err != nil {
		r.fail("finish taking over", err)
		r.rest = true
		return false
	}
	return true
}

func (r *reconciler) applyHosts() {
	p := r.plane
	p.mu.Lock()
	want := p.tables.desiredAddresses(r.in.addresses, p.synced)
	p.mu.Unlock()
	if err := r.in.putAddresses(want); err != nil {
		r.hosts = true
		p.mu.Lock()
		r.fail("write addresses of nodes", err)
		p.mu.Unlock()
	}
}

func (r *reconciler) applyNode(name string) {
	p := r.plane
	p.mu.Lock()
	record := p.tables.desiredNode(name)
	p.mu.Unlock()
	if err := r.in.putNode(name, record); err != nil {
		r.nodes[name] = struct{}{}
		p.mu.Lock()
		r.fail("write node "+name, err)
		p.mu.Unlock()
	}
}

func (r *reconciler) applyService(name string) {
	p := r.plane
	p.mu.Lock()
	d := p.desiredService(name)
	p.mu.Unlock()
	again, err := r.in.apply(d)
	delete(r.failed, name)
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.full, name)
	if errors.Is(err, errFull) {
		p.full[name] = Problem{Service: name, Reason: err.Error()}
	}
	p.review(name)
	p.queue.add(false, again...)
	if err != nil {
		r.failed[name] = struct{}{}
		r.fail("write service "+name, err)
	}
}

// fail records an error for whoever waits in Flush. p.mu is held.
func (r *reconciler) fail(what string, err error) {
	r.plane.lastErr = err
	r.plane.log.Error("service tables are not up to date: trying again", "what", what, "err", err)
	r.plane.broadcast()
}

// desiredService copies from the tables what applying one service needs.
func (p *Plane) desiredService(name string) *desiredService {
	d := &desiredService{name: name, pools: p.tables.desired(name), nodes: map[string]bpf.SocketNode{}}
	for _, pool := range d.pools {
		for _, b := range pool.backends {
			node := storedName(b.key.node)
			d.nodes[node] = p.tables.desiredNode(node)
		}
	}
	d.withdrawn = func(addr netip.Addr) bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.tables.withdrawn[addr] > 0
	}
	d.claimed = func(f Frontend) bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		_, claimed := p.tables.owner(f)
		return claimed
	}
	return d
}
