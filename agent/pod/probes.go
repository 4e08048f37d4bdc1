package pod

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/agent/pod/life"
	"github.com/skep-io/skep/agent/probe"
)

// watchProbe probes until the task ends.
func (w *worker) watchProbe(a life.WatchProbe) {
	ctx := w.begin(string(a.Kind), a.Container)
	kind, spec, id := probe.Kind(a.Kind), w.spec(a.Container), a.Attempt.ID
	p := map[life.ProbeKind]*corev1.Probe{
		life.Startup: spec.StartupProbe, life.Liveness: spec.LivenessProbe, life.Readiness: spec.ReadinessProbe,
	}[a.Kind]
	target := probe.Target{Host: w.probeHost(), Container: spec, Exec: w.execIn(id)}
	w.work.Go(func() {
		probe.Watch(ctx, kind, p, target, a.Attempt.StartedAt, a.Initial, func(r probe.Report) {
			w.pods.metrics.probed(w.ref, spec.Name, r)
			w.probeEvent(spec.Name, r)
			if !r.Changed {
				return
			}
			if kind == probe.Readiness && !r.OK {
				w.withdrawFor(spec.Name) // before the worker and the API server are notified
			}
			w.post(life.Probed{Container: spec.Name, ID: id, Kind: a.Kind, OK: r.OK})
		})
	})
}

func (w *worker) probeHost() string {
	if addrs := w.addresses(); len(addrs) > 0 {
		return addrs[0].String()
	}
	if len(w.pods.cfg.NodeIPs) > 0 {
		return w.pods.cfg.NodeIPs[0].String()
	}
	return "127.0.0.1"
}

func (w *worker) probeEvent(name string, r probe.Report) {
	switch {
	case r.Outcome.Err != nil:
		w.containerEvent(name, corev1.EventTypeWarning, "Unhealthy", "%s probe errored and resulted in %s state: %s", r.Kind, "unknown", r.Outcome.Err)
	case r.Outcome.Warning:
		w.containerEvent(name, corev1.EventTypeWarning, "ProbeWarning", "%s probe warning: %s", r.Kind, r.Outcome.Output)
	case !r.Outcome.OK:
		w.containerEvent(name, corev1.EventTypeWarning, "Unhealthy", "%s probe failed: %s", r.Kind, r.Outcome.Output)
	}
}

// runPostStart runs the hook beside a container that has just started.
func (w *worker) runPostStart(a life.RunPostStart) {
	ctx, spec := w.begin(postStartTask, a.Container), w.spec(a.Container)
	slow := time.AfterFunc(time.Minute, func() {
		w.log().Warn("postStart hook still runs; its container's end or the pod's ends it", "container", spec.Name)
	})
	w.beside(func(context.Context) life.Event {
		defer slow.Stop()
		err := w.runHook(ctx, spec, a.ID, spec.Lifecycle.PostStart)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			w.log().Warn("postStart hook failed", "container", spec.Name, "err", err)
			w.containerEvent(spec.Name, corev1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
		}
		return life.PostStartEnded{Container: spec.Name, ID: a.ID, Failed: err != nil}
	})
}

func (w *worker) runHook(ctx context.Context, spec *corev1.Container, id string, hook *corev1.LifecycleHandler) error {
	target := probe.Target{Host: w.probeHost(), Container: spec}
	switch {
	case hook.Exec != nil:
		code, err := w.execIn(id)(ctx, hook.Exec.Command, io.Discard)
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

// sharedWriter combines a command's two outputs, which are copied concurrently, into one.
type sharedWriter struct {
	mu sync.Mutex
	to io.Writer
}

func (w *sharedWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.to.Write(b)
}
