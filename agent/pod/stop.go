package pod

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skep-io/skep/agent/pod/life"
	"github.com/skep-io/skep/agent/runtime"
	"github.com/skep-io/skep/agent/services"
)

// Endpoints follows the endpoints of pods of this node in the API.
type Endpoints interface {
	// Drain makes the pod the last choice of this node's clients, and returns when the other nodes have it out of their maps, or ctx ends.
	// restored undoes the change on this node.
	Drain(ctx context.Context, pod types.UID) (result services.Drained, restored func())
}

// drain makes clients of the pod's services use other pods while this one still answers, and gives those time that are connected to it.
func (w *worker) drain(limit time.Duration) {
	netns := ""
	if w.setup != nil && !w.pod.Spec.HostNetwork {
		netns = w.setup.sandbox.NetNS
	}
	w.beside(func(ctx context.Context) life.Event {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		result, restored := w.pods.cfg.Endpoints.Drain(ctx, types.UID(w.uid))
		w.undrain = restored
		if !result.Endpoint {
			return life.Drained{}
		}
		problems := result.Problem
		if open := w.awaitClients(ctx, netns); open > 0 {
			problems = strings.TrimPrefix(fmt.Sprintf("%s; %d connections to it were open", problems, open), "; ")
		}
		return life.Drained{Endpoint: true, Problem: problems}
	})
}

// runPreStop runs the hook of a container that is about to be stopped.
func (w *worker) runPreStop(a life.RunPreStop) {
	hook, spec := w.begin(preStopTask, a.Container), w.spec(a.Container)
	w.beside(func(ctx context.Context) life.Event {
		err := w.runHook(hook, spec, a.ID, spec.Lifecycle.PreStop)
		if ctx.Err() != nil {
			return nil // the agent ends; the next one continues the stop
		}
		if err != nil {
			w.containerEvent(spec.Name, corev1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
			w.log().Warn("preStop hook failed", "container", spec.Name, "err", err)
		}
		return life.PreStopEnded(a)
	})
}

// exitOr returns the exit of a container that was signalled or killed, the failure to do so, or nil if its exit will be
// reported.
func (w *worker) exitOr(container, id string, err error, failed life.Event) life.Event {
	c, known := w.runtime.Container(id)
	switch {
	case known && c.State == runtime.Exited:
		return life.ContainerExited{Container: container, ID: id, Exit: exitOf(c)}
	case w.ctx.Err() != nil:
		return nil // the agent ends
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

// release releases network, namespaces and volumes.
func (w *worker) release() {
	s, pod := w.setup, w.ref
	w.beside(func(ctx context.Context) life.Event {
		if s != nil { // given up: the release waits for parts that hang
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

// remove deletes the pod's API object, then its records on this node: while the object exists, a new agent would find
// it and clean up again.
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
		return nil // deleted, or another pod of the same name
	}
	return err
}
