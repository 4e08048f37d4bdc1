package pod

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/agent/runtime"
	"github.com/skep-io/skep/agent/usage"
)

// layerTimeout bounds the request for the path of a container's writable layer: during it, no pod's disk use is measured.
const layerTimeout = 10 * time.Second

// layers remembers where containers' writable layers are, by container ID: a layer does not move.
type layers struct {
	mu    sync.Mutex
	paths map[string]string
}

// Disk is what a pod uses of the node's disks, as measured last; ok is false before the first measurement.
func (p *Pods) Disk(uid string) (disk usage.Pod, ok bool) { return p.disk.Pod(uid) }

func (p *Pods) newDiskMeter() *usage.Meter {
	return usage.New(usage.Config{Pods: p.uids, Trees: p.trees, Measured: p.limitDisk, Interval: p.cfg.DiskInterval})
}

// uids are those of the pods that are here.
func (p *Pods) uids() (list []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for uid := range p.workers {
		list = append(list, uid)
	}
	p.layers.forget(p.cfg.Runtime.Containers())
	return list
}

// trees are the folders that count as a pod's disk use.
func (p *Pods) trees(ctx context.Context, uid string) []usage.Tree {
	w := p.worker(uid)
	if w == nil {
		return nil
	}
	rt := p.cfg.Runtime
	var list []usage.Tree
	add := func(kind usage.Kind, name, path string) {
		list = append(list, usage.Tree{Key: usage.Key{Kind: kind, Name: name}, Path: path})
	}
	for i := range w.ref.Spec.Volumes {
		v := &w.ref.Spec.Volumes[i]
		switch path := p.volumes.Path(uid, v.Name); {
		case v.Secret != nil, v.Projected != nil, v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumMemory:
			add(usage.Memory, v.Name, path)
		case v.EmptyDir != nil, v.ConfigMap != nil, v.DownwardAPI != nil:
			add(usage.Volume, v.Name, path)
			list[len(list)-1].Counted = v.EmptyDir != nil && !hostUsers(w.ref)
		}
	}
	for _, containers := range [][]corev1.Container{w.ref.Spec.InitContainers, w.ref.Spec.Containers} {
		for i := range containers {
			add(usage.Logs, containers[i].Name, rt.LogDir(uid, containers[i].Name))
		}
	}
	for _, c := range p.containersOf(uid) { // by attempt: the newest of a name counts
		if c.State == runtime.Exited {
			continue // its layer is removed within a moment
		}
		path, err := p.layers.of(ctx, rt, c.ID)
		if err != nil {
			w.log().Warn("writable layer not measured", "container", c.Name, "err", err)
		}
		if path != "" {
			add(usage.Layer, c.Name, path)
		}
	}
	for _, dir := range rt.FilesDirs(uid) {
		add(usage.Files, filepath.Base(dir), dir)
	}
	return list
}

// countVolume has the kernel count a new emptyDir's use if that count is reliable: a process in a user namespace cannot change a
// file's project, a file's owner outside of one can.
func (p *Pods) countVolume(pod *corev1.Pod, dir string) {
	if hostUsers(pod) {
		return
	}
	if err := p.quotas.Assign(dir); err != nil && !errors.Is(err, usage.ErrNoQuotas) {
		slog.Warn("volume not counted by the kernel; it will be walked", "pod", pod.Namespace+"/"+pod.Name, "err", err)
	}
}

func (l *layers) of(ctx context.Context, rt *runtime.Runtime, id string) (string, error) {
	l.mu.Lock()
	path, known := l.paths[id]
	l.mu.Unlock()
	if known {
		return path, nil
	}
	ctx, cancel := context.WithTimeout(ctx, layerTimeout)
	defer cancel()
	path, err := rt.WritableLayer(ctx, id)
	if err != nil {
		return "", err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.paths == nil {
		l.paths = map[string]string{}
	}
	l.paths[id] = path
	return path, nil
}

// forget drops the entries of containers that were removed.
func (l *layers) forget(present []runtime.Container) {
	here := map[string]bool{}
	for _, c := range present {
		here[c.ID] = true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for id := range l.paths {
		if !here[id] {
			delete(l.paths, id)
		}
	}
}

// measureDisk runs the meter until ctx ends.
func (p *Pods) measureDisk(ctx context.Context) {
	if err := p.disk.Run(ctx); err != nil {
		slog.Error("pods' disk use is not measured", "err", err)
	}
}
