package pod

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/agent/probe"
	"github.com/skep-io/skep/agent/runtime"
)

// stopAll stops every container and says whether all have ended. Sidecars
// outlive the main containers, as the pod API promises.
func (w *worker) stopAll(grace time.Duration) (allEnded bool) {
	allEnded, mainsEnded := true, true
	for _, c := range w.containers {
		if c.starting {
			c.giveUp()
			allEnded = false // its result comes, and then it is stopped
			mainsEnded = mainsEnded && c.role != roleMain
		}
		if c.running() {
			allEnded = false
			mainsEnded = mainsEnded && c.role != roleMain
		}
	}
	for _, c := range w.containers {
		if !c.running() || (c.role == roleSidecar && !mainsEnded) {
			continue
		}
		if c.stopping {
			w.shorten(c, grace)
			continue
		}
		w.beginStop(c, grace, "Stopping container "+c.name)
	}
	return allEnded
}

// beginStop stops one container beside the worker: hook, signal, grace, kill.
func (w *worker) beginStop(c *containerState, grace time.Duration, why string) {
	if c.stopping || !c.running() {
		return
	}
	if !c.stop.due() { // it failed before, as it does at once while containerd is away
		w.at("stop "+c.name, c.stop.at)
		return
	}
	c.stopping, c.grace, c.deadline = true, grace, time.Now().Add(grace)
	if !w.drained {
		// It is replaced, not taken away with its pod.
		c.stopProbes()
		c.ready = false
		w.withdrawFor(c.name)
	}
	c.endHook()
	w.containerEvent(c.name, corev1.EventTypeNormal, "Killing", "%s", why)
	hurry, cancel := context.WithCancel(w.ctx)
	c.hurry = cancel
	deadline := c.deadline
	id, spec := c.current.ID, w.spec(c.name)
	began := time.Now()
	w.beside(func(context.Context) func() {
		defer cancel()
		if spec.Lifecycle != nil && spec.Lifecycle.PreStop != nil {
			ctx, done := context.WithDeadline(hurry, deadline)
			defer done()
			if err := w.runHook(ctx, spec, id, spec.Lifecycle.PreStop); err != nil {
				w.containerEvent(spec.Name, corev1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
				w.log().Warn("preStop hook failed", "container", spec.Name, "err", err)
			}
		}
		if w.ctx.Err() != nil {
			return nil // the agent leaves; its successor finds the pod as it is
		}
		// A hook that used up the grace period still leaves a moment to the
		// signal, as the kubelet grants.
		rest := max(grace-time.Since(began), 2*time.Second)
		err := w.pods.cfg.Runtime.Stop(w.ctx, id, rest, hurry.Done())
		return func() { w.stopDone(c, id, err) }
	})
}

// shorten ends a grace period that a later deletion made shorter. It counts
// from now, as the kubelet does: the deletion's timestamp has no fractions of a
// second, and counting to it would take up to one away from the container.
func (w *worker) shorten(c *containerState, grace time.Duration) {
	if grace >= c.grace {
		return
	}
	c.grace = grace
	until := time.Now().Add(grace)
	if !until.Before(c.deadline) {
		return
	}
	c.deadline = until
	time.AfterFunc(grace, c.hurry)
}

func (w *worker) stopDone(c *containerState, id string, err error) {
	c.stopping = false
	if err == nil {
		c.stop = retry{}
	} else if c.stop.failed(err) {
		w.event(corev1.EventTypeWarning, "FailedKillPod", "error killing pod: %v", err)
		w.log().Error("container not stopped; trying again", "container", c.name, "err", err)
	}
	if fresh, ok := w.pods.cfg.Runtime.Container(id); ok && fresh.State == runtime.Exited && c.current != nil && c.current.ID == id {
		w.exited(fresh)
	}
}

// runPostStart runs the hook beside a container that has just started; one
// that fails ends the container.
func (w *worker) runPostStart(c *containerState) {
	spec := w.spec(c.name)
	if spec.Lifecycle == nil || spec.Lifecycle.PostStart == nil {
		return
	}
	id := c.current.ID
	ctx, cancel := context.WithCancel(w.ctx)
	c.hook = cancel
	slow := time.AfterFunc(time.Minute, func() {
		w.log().Warn("postStart hook still runs; its container's end or the pod's ends it", "container", spec.Name)
	})
	w.beside(func(context.Context) func() {
		defer cancel()
		defer slow.Stop()
		err := w.runHook(ctx, spec, id, spec.Lifecycle.PostStart)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		w.log().Warn("postStart hook failed", "container", spec.Name, "err", err)
		w.containerEvent(spec.Name, corev1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
		return func() {
			if c.running() && c.current.ID == id {
				w.beginStop(c, w.gracePeriod(), "FailedPostStartHook")
			}
		}
	})
}

func (w *worker) runHook(ctx context.Context, spec *corev1.Container, id string, hook *corev1.LifecycleHandler) error {
	target := probe.Target{Host: w.probeHost(), Container: spec}
	switch {
	case hook.Exec != nil:
		code, err := w.execFor(id)(ctx, hook.Exec.Command, io.Discard)
		if err == nil && code != 0 {
			err = fmt.Errorf("command exited with %d", code)
		}
		return err
	case hook.HTTPGet != nil:
		request, err := probe.HTTPRequest(ctx, hook.HTTPGet, target, "kube-lifecycle/1.37")
		if err != nil {
			return err
		}
		client := probe.HTTPClient()
		defer client.CloseIdleConnections()
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		response.Body.Close()
		if response.StatusCode >= http.StatusBadRequest {
			return fmt.Errorf("HTTP status %s", response.Status)
		}
		return nil
	case hook.Sleep != nil:
		timer := time.NewTimer(time.Duration(hook.Sleep.Seconds) * time.Second)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		return nil
	}
	return errors.New("the hook has no handler that is supported: exec, httpGet or sleep")
}

// releaseResources gives back network, namespaces and volumes of a pod that
// has finished but still exists.
func (w *worker) releaseResources() {
	if w.cleaning || w.released || !w.clean.due() {
		return
	}
	w.cleaning = true
	s, pod := w.setup, w.ref
	w.beside(func(ctx context.Context) func() {
		if s != nil { // given up: what of it hangs, the release waits for
			<-s.network.done
			<-s.volumes.done
		}
		w.pods.cfg.HostPorts.DeleteHostPorts(pod)
		err := w.pods.release(ctx, w.uid)
		return func() {
			w.cleaning = false
			if err != nil {
				w.notCleaned(err)
				return
			}
			w.released, w.setup, w.clean = true, nil, retry{}
			w.gaveBack.Store(true)
		}
	})
}

// notCleaned says what the end of the pod waits for, once, and has it tried again.
func (w *worker) notCleaned(err error) {
	if w.ctx.Err() != nil {
		return
	}
	if w.clean.failed(err) {
		w.event(corev1.EventTypeWarning, "FailedKillPod", "error killing pod: %v", err)
		w.log().Error("what the pod holds is not given back; trying again", "err", err)
	}
	w.at("clean", w.clean.at)
}

// removeAll ends the pod's time on this node. Its API object goes last: while
// it exists, a new agent would find it and clean up again.
func (w *worker) removeAll() {
	if w.cleaning || w.ended || !w.clean.due() {
		return
	}
	if !w.released {
		w.releaseResources()
		return
	}
	w.cleaning = true
	status := w.status()
	gone, pod := w.gone, w.pod
	w.beside(func(ctx context.Context) func() {
		var err error
		if !gone {
			w.writer.flush(ctx, status)
			err = w.deleteObject(ctx, pod)
		}
		if err == nil {
			err = w.pods.forget(ctx, w.uid)
		}
		return func() {
			w.cleaning = false
			if err != nil {
				if w.clean.failed(err) {
					w.log().Warn("pod not removed yet; trying again", "err", err)
				}
				w.at("clean", w.clean.at)
				return
			}
			w.ended = true
		}
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
