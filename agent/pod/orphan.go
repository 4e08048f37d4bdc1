package pod

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/agent/runtime"
	"github.com/skep-io/skep/backoff"
)

// removeOrphans removes the containers and folders of pods that the API server no longer has:
// deleted while the agent was not running, or before it crashed.
func (p *Pods) removeOrphans() {
	known := map[string]bool{}
	for _, obj := range p.informer.GetStore().List() {
		known[string(obj.(*corev1.Pod).UID)] = true
	}
	uids := p.cfg.Runtime.PodUIDs()
	for uid := range p.cfg.Network.Attachments() {
		uids = append(uids, uid)
	}
	seen := map[string]bool{}
	for _, uid := range uids {
		if known[uid] || seen[uid] || p.worker(uid) != nil {
			continue
		}
		seen[uid] = true
		p.done.Add(1)
		go func() {
			defer p.done.Done()
			slog.Info("removing orphaned pod", "uid", uid)
			p.removeOrphan(uid)
		}()
	}
}

// orphanGrace is the grace period of containers whose pod object, with its own grace period, was
// deleted.
const orphanGrace = 10 * time.Second

// removeOrphan removes everything of a pod, and retries until that has succeeded.
func (p *Pods) removeOrphan(uid string) {
	remove := backoff.Retry{
		First: time.Second, Last: 30 * time.Second, Level: slog.LevelError, Attrs: []any{"uid", uid},
		Failing: "orphaned pod not removed; trying again", Working: "orphaned pod removed",
	}
	_ = remove.Do(p.ctx, func(ctx context.Context) error { return p.tryRemoveOrphan(ctx, uid) }) // that ctx ended: the next agent removes it
}

func (p *Pods) tryRemoveOrphan(ctx context.Context, uid string) error {
	var stops sync.WaitGroup
	for _, c := range p.containersOf(uid) {
		if c.State == runtime.Running {
			stops.Go(func() {
				if err := p.cfg.Runtime.Stop(ctx, c.ID, orphanGrace); err != nil {
					slog.Error("orphaned container not stopped", "container", c.ID, "err", err)
				}
			})
		}
	}
	stops.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(p.release(ctx, uid), p.forget(ctx, uid))
}
