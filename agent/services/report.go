package services

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/skep-io/skep/controlplane/servicespec"
	"github.com/skep-io/skep/dataplane/service"
)

// reporter writes events on a Service about parts that do not work on this node only: once when a problem begins, however
// often the Service is translated. The control plane reports problems that all nodes have (addresses in use, invalid
// endpoints) once for all; here they are logged.
type reporter struct {
	recorder record.EventRecorder
	problems func(context.Context) map[string][]service.Problem
	lister   corelisters.ServiceLister

	mu           sync.Mutex
	warned       map[string][]string                // service key -> messages that hold
	notInstalled map[string][]string                // name in the plane -> problems of its installation
	ports        map[string]string                  // service key -> why its health-check port is not served
	pods         map[string]*corev1.ObjectReference // key in the plane -> the pod whose host ports they are
}

func newReporter(recorder record.EventRecorder, problems func(context.Context) map[string][]service.Problem, lister corelisters.ServiceLister) *reporter {
	return &reporter{
		recorder: recorder, problems: problems, lister: lister,
		warned: map[string][]string{}, notInstalled: map[string][]string{}, ports: map[string]string{},
		pods: map[string]*corev1.ObjectReference{},
	}
}

// maxMessages is how many messages a service gets per translation; thousands of endpoints may be invalid.
const maxMessages = 10

// translated reports the parts of a service that were ignored.
func (r *reporter) translated(key string, warnings []string) {
	r.mu.Lock()
	fresh := renew(r.warned, key, warnings)
	r.mu.Unlock()
	for _, message := range fresh {
		slog.Warn("part of a service is ignored", "service", key, "reason", message)
	}
}

// renew replaces the messages of a key and returns those that are new, at most maxMessages.
func renew(all map[string][]string, key string, now []string) (fresh []string) {
	before := all[key]
	if all[key] = now; len(now) == 0 {
		delete(all, key)
	}
	if slices.Equal(before, now) {
		return nil
	}
	known := map[string]bool{}
	for _, message := range before {
		known[message] = true
	}
	for _, message := range now {
		if !known[message] && len(fresh) < maxMessages {
			known[message] = true
			fresh = append(fresh, message)
		}
	}
	return fresh
}

// run reports problems of the plane as they begin and end.
func (r *reporter) run(ctx context.Context) {
	for {
		changed := r.problems(ctx)
		if ctx.Err() != nil {
			return
		}
		for name, problems := range changed {
			r.installed(name, problems)
		}
	}
}

func (r *reporter) installed(name string, problems []service.Problem) {
	var reasons []string
	for _, p := range problems {
		if p.Owner == "" {
			reasons = append(reasons, p.Reason)
		}
	}
	r.mu.Lock()
	fresh := renew(r.notInstalled, name, reasons)
	r.mu.Unlock()
	for _, reason := range fresh {
		key, _, _ := strings.Cut(name, ":")
		r.event(key, servicespec.ReasonNotInstalled, name+": "+reason)
	}
}

// healthPort reports whether a service's health-check port is served.
func (r *reporter) healthPort(key string, problem error) {
	r.mu.Lock()
	before := r.ports[key]
	if problem == nil {
		delete(r.ports, key)
	} else {
		r.ports[key] = problem.Error()
	}
	r.mu.Unlock()
	if problem != nil && before != problem.Error() {
		r.event(key, servicespec.ReasonHealthPort, problem.Error())
	}
}

// hostPort sets or, with there false, removes the pod that gets events about its host ports.
func (r *reporter) hostPort(pod *corev1.Pod, there bool) {
	key := servicespec.HostPortPrefix + pod.Namespace + "/" + pod.Name
	r.mu.Lock()
	defer r.mu.Unlock()
	if there {
		r.pods[key] = &corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID}
	} else if have := r.pods[key]; have != nil && have.UID == pod.UID {
		delete(r.pods, key)
	}
}

// event goes to the Service, or to the pod whose host port it is about.
func (r *reporter) event(key, reason, text string) {
	r.mu.Lock()
	pod := r.pods[key]
	r.mu.Unlock()
	if pod != nil {
		r.recorder.Event(pod, corev1.EventTypeWarning, reason, text)
		return
	}
	namespace, name, _ := strings.Cut(key, "/")
	if svc, err := r.lister.Services(namespace).Get(name); err == nil {
		r.recorder.Event(svc, corev1.EventTypeWarning, reason, text)
	}
}
