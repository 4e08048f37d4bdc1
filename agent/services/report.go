package services

import (
	"context"
	"sort"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/skep-io/skep/dataplane/service"
)

// Reasons of the events that it writes.
const (
	reasonIgnored      = "PartIgnored"        // of what a Service or its endpoints say
	reasonNotInstalled = "NotInstalled"       // on this node: another holds the address, or the maps are full
	reasonHealthPort   = "HealthCheckFailure" // the health-check port cannot be served here
)

// reporter says on a Service what of it does not work on this node: once when it begins, however often it is looked at.
type reporter struct {
	recorder record.EventRecorder
	problems func() []service.Problem
	lister   corelisters.ServiceLister
	wake     chan struct{}

	mu       sync.Mutex
	warned   map[string]map[string]bool         // service key -> messages that hold
	notThere map[string]map[string]bool         // the same for what the plane could not install
	ports    map[string]string                  // service key -> why its health-check port is not served
	pods     map[string]*corev1.ObjectReference // key in the plane -> the pod whose host ports they are
}

func newReporter(recorder record.EventRecorder, problems func() []service.Problem, lister corelisters.ServiceLister) *reporter {
	return &reporter{
		recorder: recorder, problems: problems, lister: lister, wake: make(chan struct{}, 1),
		warned: map[string]map[string]bool{}, notThere: map[string]map[string]bool{}, ports: map[string]string{},
		pods: map[string]*corev1.ObjectReference{},
	}
}

// most is how many messages a service gets from one look; endpoints may be wrong by the thousand.
const most = 10

// translated hears what was ignored of a service. svc is nil if it is gone.
func (r *reporter) translated(svc *corev1.Service, key string, warnings []string) {
	r.look()
	r.mu.Lock()
	fresh := renew(r.warned, key, warnings)
	r.mu.Unlock()
	if svc == nil {
		return
	}
	for _, message := range fresh {
		r.recorder.Event(svc, corev1.EventTypeWarning, reasonIgnored, message)
	}
}

// look has the plane asked before long.
func (r *reporter) look() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// renew makes the messages of a key what they are now and returns those that are new, at most a few.
func renew(all map[string]map[string]bool, key string, now []string) (fresh []string) {
	if len(now) == 0 {
		delete(all, key)
		return nil
	}
	before := all[key]
	all[key] = make(map[string]bool, len(now))
	for _, message := range now {
		if !before[message] && !all[key][message] && len(fresh) < most {
			fresh = append(fresh, message)
		}
		all[key][message] = true
	}
	return fresh
}

// settle is how long changes are let pass before the plane is asked for its problems: it looks at every service for them.
const settle = time.Second

// run asks the plane what it could not install, some time after each change.
func (r *reporter) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(settle):
		}
		r.installed(r.problems())
	}
}

func (r *reporter) installed(problems []service.Problem) {
	now := map[string][]string{}
	for _, p := range problems {
		key, _, _ := strings.Cut(p.Service, ":")
		now[key] = append(now[key], p.Service+": "+p.Reason)
	}
	type message struct{ key, text string }
	var fresh []message
	r.mu.Lock()
	for key := range r.notThere {
		if len(now[key]) == 0 {
			delete(r.notThere, key)
		}
	}
	for key, reasons := range now {
		for _, text := range renew(r.notThere, key, reasons) {
			fresh = append(fresh, message{key, text})
		}
	}
	r.mu.Unlock()
	sort.Slice(fresh, func(i, j int) bool { return fresh[i].text < fresh[j].text })
	for _, m := range fresh {
		r.event(m.key, reasonNotInstalled, m.text)
	}
}

// healthPort hears whether a service's health-check port is served.
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
		r.event(key, reasonHealthPort, problem.Error())
	}
}

// hostPort keeps to whom events about host ports go.
func (r *reporter) hostPort(pod *corev1.Pod, there bool) {
	key := hostPortPrefix + pod.Namespace + "/" + pod.Name
	r.mu.Lock()
	if there {
		r.pods[key] = &corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID}
	} else if have := r.pods[key]; have != nil && have.UID == pod.UID {
		delete(r.pods, key)
	}
	r.mu.Unlock()
	r.look()
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
