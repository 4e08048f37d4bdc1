package runtime

import (
	"errors"
	"io/fs"
	"os"
	"time"

	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
)

// reconcile compares a container that containerd has with what this process
// knows of it. A container that nobody knows is left of a start or a removal
// that failed because containerd died in the middle: it may run, beside the
// attempt that replaced it, and nothing else would ever end it.
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
			r.cgroups.RemovePod(uid)
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

// setPreparing keeps a root file system that has no container yet from being
// taken for a stray one, and its image from being collected; without an image
// that is over.
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
