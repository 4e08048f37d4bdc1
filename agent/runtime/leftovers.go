package runtime

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"time"

	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
)

// reconcile compares a container in containerd with this process's entry. A container without an
// entry is left by a start or a removal that failed because containerd ended in the middle: it may
// run, beside the attempt that replaced it, and nothing else would end it.
func (r *Runtime) reconcile(m containers.Container, task *tasktypes.Process, asOf time.Time) {
	e, known := r.lookup(m.ID)
	if known && !e.wasReaped() {
		r.reconcileKnown(e, task, asOf)
		return
	}
	uid := m.Labels[labelPodUID]
	r.work.Go(func() {
		r.cleanUp(m.ID)
		// The pod may have been removed around it.
		if _, err := os.Stat(r.sandboxDir(uid)); errors.Is(err, fs.ErrNotExist) {
			if err := r.cgroups.RemovePod(uid); err != nil {
				slog.Error("the cgroup of a pod that has been removed stays until the agent's next start", "uid", uid, "err", err)
			}
		}
	})
}

// wasReaped says whether the container's removal has been tried.
func (e *entry) wasReaped() bool {
	select {
	case <-e.reaped:
		return true
	default:
		return false
	}
}

// setPreparing keeps a root file system that has no container yet from being removed as stray, and
// its image from being collected; a call without an image ends that.
func (r *Runtime) setPreparing(id string, image Image) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if image.ID != "" {
		r.preparing[id] = image.digest()
	} else {
		delete(r.preparing, id)
	}
}

func (r *Runtime) inUse(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.containers[id] != nil || r.preparing[id] != ""
}
