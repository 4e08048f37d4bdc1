package service

import (
	"cmp"
	"context"
	"maps"
	"slices"
)

// trouble holds the current problems of services, and which of them AwaitProblems
// has not returned yet. Plane.mu guards it.
type trouble struct {
	now   map[string][]Problem // never empty ones
	news  map[string]struct{}
	ready chan struct{} // of capacity 1: something changed
}

func newTrouble() trouble {
	return trouble{now: map[string][]Problem{}, news: map[string]struct{}{}, ready: make(chan struct{}, 1)}
}

// review updates the problems of a service that was changed, and of those that it
// has frontends in common with. p.mu is held.
func (p *Plane) review(name string) {
	p.tables.contested[name] = struct{}{}
	for name := range p.tables.contested {
		p.trouble.set(name, p.problemsOf(name), p.logProblem)
	}
	clear(p.tables.contested)
}

func (p *Plane) problemsOf(name string) []Problem {
	if _, ok := p.tables.services[name]; !ok {
		return nil
	}
	problems := slices.Concat(p.tables.problems[name], p.tables.conflicts(name))
	if problem, ok := p.full[name]; ok {
		problems = append(problems, problem)
	}
	return problems
}

func (p *Plane) logProblem(problem Problem) {
	p.log.Warn("part of a service is not installed", "service", problem.Service, "reason", problem.Reason)
}

func (t *trouble) set(name string, problems []Problem, fresh func(Problem)) {
	before := t.now[name]
	if slices.Equal(before, problems) {
		return
	}
	for _, problem := range problems {
		if !slices.Contains(before, problem) {
			fresh(problem)
		}
	}
	if t.now[name] = problems; len(problems) == 0 {
		delete(t.now, name)
	}
	t.news[name] = struct{}{}
	select {
	case t.ready <- struct{}{}:
	default:
	}
}

// Problems lists what was asked for and cannot be installed: frontends that
// another service holds, entries without an address or a port, services that a
// map has no room for, of which the rest is installed.
func (p *Plane) Problems() []Problem {
	p.mu.Lock()
	problems := slices.Concat(slices.Collect(maps.Values(p.trouble.now))...)
	p.mu.Unlock()
	slices.SortFunc(problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), compareFrontends(a.Frontend, b.Frontend))
	})
	return problems
}

// AwaitProblems waits until the problems of any service differ from those at the
// last call, and returns those services with all problems of each: an empty list
// if it has none any more. It returns nil when ctx ends. One caller at a time.
func (p *Plane) AwaitProblems(ctx context.Context) map[string][]Problem {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.trouble.ready:
		}
		p.mu.Lock()
		changed := make(map[string][]Problem, len(p.trouble.news))
		for name := range p.trouble.news {
			changed[name] = p.trouble.now[name]
		}
		clear(p.trouble.news)
		p.mu.Unlock()
		if len(changed) > 0 {
			return changed
		}
	}
}
