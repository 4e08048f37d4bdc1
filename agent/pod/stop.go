package pod

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skep-io/skep/agent/pod/life"
	"github.com/skep-io/skep/agent/runtime"
)

// Endpoints knows what the API says about a pod of this node.
type Endpoints interface {
	// Drain makes the pod the last choice of this node's clients, and returns
	// when the API says so to all other nodes, or ctx ends. restored undoes
	// what it asked of this node.
	Drain(ctx context.Context, pod types.UID) (restored func())
}

// drain lets the pod's services turn away from it while it still answers.
func (w *worker) drain(limit time.Duration) {
	w.beside(func(ctx context.Context) life.Event {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		w.undrain = w.pods.cfg.Endpoints.Drain(ctx, types.UID(w.uid))
		return life.Drained{}
	})
}

// runPreStop runs the hook of a container that is about to be stopped.
func (w *worker) runPreStop(a life.RunPreStop) {
	hook, spec := w.begin(preStopTask, a.Container), w.spec(a.Container)
	w.beside(func(ctx context.Context) life.Event {
		err := w.runHook(hook, spec, a.ID, spec.Lifecycle.PreStop)
		if ctx.Err() != nil {
			return nil // the agent leaves; its successor finds the pod as it is
		}
		if err != nil {
			w.containerEvent(spec.Name, corev1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
			w.log().Warn("preStop hook failed", "container", spec.Name, "err", err)
		}
		return life.PreStopEnded(a)
	})
}

// exitOr says how a container that was signalled or killed has ended, that it could not be, or nothing: its exit comes.
func (w *worker) exitOr(container, id string, err error, failed life.Event) life.Event {
	c, known := w.runtime.Container(id)
	switch {
	case known && c.State == runtime.Exited:
		return life.ContainerExited{Container: container, ID: id, Exit: exitOf(c)}
	case w.ctx.Err() != nil:
		return nil // the agent leaves
	case err != nil:
		return failed
	case !known:
		return life.ContainerExited{Container: container, ID: id, Exit: life.Exit{
			Code: 137, Reason: "ContainerStatusUnknown", FinishedAt: time.Now(),
			Message: "The container could not be located when the pod was terminated",
		}}
	}
	return nil
}

// release gives back network, namespaces and volumes.
func (w *worker) release() {
	s, pod := w.setup, w.ref
	w.beside(func(ctx context.Context) life.Event {
		if s != nil { // given up: what of it hangs, the release waits for
			<-s.network.done
			<-s.volumes.done
		}
		w.pods.cfg.HostPorts.DeleteHostPorts(pod)
		err := w.pods.release(ctx, w.uid)
		if err != nil && ctx.Err() != nil {
			return nil
		}
		w.released.Store(err == nil)
		return life.Released{Err: err}
	})
}

// remove ends the pod's time on this node. Its API object goes before its
// records: while it exists, a new agent would find it and clean up again.
func (w *worker) remove(a life.Remove) {
	pod := w.pod
	w.beside(func(ctx context.Context) life.Event {
		var err error
		if !a.ObjectGone {
			w.writer.flush(ctx, a.Status)
			err = w.deleteObject(ctx, pod)
		}
		if err == nil {
			err = w.pods.forget(ctx, w.uid)
		}
		return life.ObjectRemoved{Err: err}
	})
}

func (w *worker) deleteObject(ctx context.Context, pod *corev1.Pod) error {
	err := w.pods.cfg.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: new(int64),
		Preconditions:      metav1.NewUIDPreconditions(w.uid),
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // gone, or another pod of the same name
	}
	return err
}
