package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// writer writes one object after the other through whichever server takes it, and keeps what was acknowledged, in order.
type writer struct {
	g            *group
	clients      map[string]*kubernetes.Clientset
	acknowledged []string
	revisions    []int64
}

func newWriter(g *group) *writer {
	w := &writer{g: g, clients: map[string]*kubernetes.Clientset{}}
	for name, m := range g.servers {
		w.clients[name] = g.client(m)
	}
	return w
}

// any calls f with the client of each server but one, in turn, until it succeeds, and returns how long that took.
func (w *writer) any(what, but string, f func(ctx context.Context, c *kubernetes.Clientset) error) time.Duration {
	w.g.t.Helper()
	began := time.Now()
	for {
		var last error
		for name, c := range w.clients {
			if name == but {
				continue
			}
			ctx, cancel := context.WithTimeout(w.g.t.Context(), time.Second)
			err := f(ctx, c)
			cancel()
			if err == nil {
				return time.Since(began)
			}
			last = err
		}
		if time.Since(began) > patience {
			w.g.t.Fatalf("%s: %v", what, last)
		}
	}
}

// write writes the next object. One whose first attempt was not answered may be there already; then its revision is not known.
func (w *writer) write(but string) time.Duration {
	name := fmt.Sprintf("w-%05d", len(w.acknowledged))
	var revision int64
	took := w.any("write "+name, but, func(ctx context.Context, c *kubernetes.Clientset) error {
		made, err := c.CoreV1().ConfigMaps("default").Create(ctx, configMap(name, name), metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		if err == nil {
			revision, err = strconv.ParseInt(made.ResourceVersion, 10, 64)
		}
		return err
	})
	w.acknowledged = append(w.acknowledged, name)
	if revision != 0 {
		w.revisions = append(w.revisions, revision)
	}
	return took
}

// bind creates a pod and waits until the scheduler has bound it.
func (w *writer) bind(name, but string) time.Duration {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	return w.any("bind "+name, but, func(ctx context.Context, c *kubernetes.Clientset) error {
		if _, err := c.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
		for ctx.Err() == nil {
			have, err := c.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if have.Spec.NodeName != "" {
				return nil
			}
			time.Sleep(20 * time.Millisecond)
		}
		return ctx.Err()
	})
}

// check reads everything through one server: what was acknowledged is there, and came into being in the order in which it was acknowledged.
func (w *writer) check(m *member) {
	w.g.t.Helper()
	list, err := w.clients[m.name].CoreV1().ConfigMaps("default").List(w.g.t.Context(), metav1.ListOptions{})
	if err != nil {
		w.g.t.Fatal(err)
	}
	have := map[string]string{}
	for _, c := range list.Items {
		have[c.Name] = c.Data["value"]
	}
	for _, name := range w.acknowledged {
		if have[name] != name {
			w.g.t.Errorf("%s was acknowledged and is not there through %s", name, m.name)
		}
	}
	if !slices.IsSorted(w.revisions) {
		w.g.t.Errorf("the revisions of writes that came one after the other are not in order")
	}
}

// fakeNode is one that the scheduler binds pods to.
func (w *writer) fakeNode() {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	w.any("node", "", func(ctx context.Context, c *kubernetes.Clientset) error {
		if _, err := c.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
		have, err := c.CoreV1().Nodes().Get(ctx, "n", metav1.GetOptions{})
		if err != nil {
			return err
		}
		have.Status.Allocatable = corev1.ResourceList{corev1.ResourcePods: resource.MustParse("1000"), corev1.ResourceCPU: resource.MustParse("100"), corev1.ResourceMemory: resource.MustParse("100Gi")}
		have.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now()}}
		_, err = c.CoreV1().Nodes().UpdateStatus(ctx, have, metav1.UpdateOptions{})
		return err
	})
}

// Each of three servers in turn is killed or paused while objects are written: no acknowledged write is lost or out of order, writes go
// on through the others, and the scheduler binds pods.
func TestServersFailInTurn(t *testing.T) {
	g := newGroup(t, "--node-monitor-grace", "1h")
	g.join("b")
	g.join("c")
	w := newWriter(g)
	w.fakeNode()
	w.bind("before", "")
	for _, at := range []struct{ name, fault string }{{"a", "killed"}, {"b", "paused"}, {"c", "killed"}, {"a", "paused"}} {
		name, fault := at.name, at.fault
		m := g.servers[name]
		for range 10 {
			w.write("")
		}
		if fault == "killed" {
			_ = m.process.end(t, syscall.SIGKILL)
		} else {
			m.process.signal(t, syscall.SIGSTOP)
		}
		wrote := w.write(name)
		bound := w.bind(fault+"-"+name, name)
		for range 10 {
			w.write(name)
		}
		t.Logf("%s %s: writes go on after %v, a pod is bound %v later", name, fault, wrote.Round(time.Millisecond), bound.Round(time.Millisecond))
		if fault == "killed" {
			g.start(m)
		} else {
			m.process.signal(t, syscall.SIGCONT)
		}
		g.eventually(name+" works again", func() error { return put(t.Context(), g.client(m), "again-"+fault+"-"+name, "v") })
		w.check(m)
	}
	for _, m := range g.servers {
		w.check(m)
	}
	t.Run("writes in flight", func(t *testing.T) { w.inFlight(t) })
}

// inFlight has the server whose etcd leads paused while many clients update objects through the others. Updates that were under way to the
// leader are lost there; they must be carried out by the next one, and not fail after the six seconds after which etcd itself gives them up.
func (w *writer) inFlight(t *testing.T) {
	leader, others := "", []*kubernetes.Clientset{}
	for name, s := range w.g.list(w.g.servers["a"]) {
		if s.Role == "leader" {
			leader = name
		} else {
			others = append(others, w.clients[name])
		}
	}
	if leader == "" || len(others) != 2 {
		t.Fatalf("the leader is %q, besides %d others", leader, len(others))
	}
	const clients = 40
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var group sync.WaitGroup
	var mu sync.Mutex
	var longest time.Duration
	var updates int
	for i := range clients {
		maps := others[i%len(others)].CoreV1().ConfigMaps("default")
		name := fmt.Sprintf("in-flight-%d", i)
		w.any(name, leader, func(ctx context.Context, c *kubernetes.Clientset) error { return put(ctx, c, name, "0") })
		group.Go(func() {
			for n := 1; ctx.Err() == nil; n++ {
				began := time.Now()
				_, err := maps.Update(context.WithoutCancel(ctx), configMap(name, strconv.Itoa(n)), metav1.UpdateOptions{})
				mu.Lock()
				if updates++; time.Since(began) > longest {
					longest = time.Since(began)
				}
				mu.Unlock()
				if err != nil {
					t.Errorf("update %d of %s, after %v: %v", n, name, time.Since(began), err)
					return
				}
			}
		})
	}
	time.Sleep(500 * time.Millisecond) // some are always under way
	mu.Lock()
	longest = 0
	mu.Unlock()
	w.g.servers[leader].process.signal(t, syscall.SIGSTOP)
	time.Sleep(4 * time.Second)
	w.g.servers[leader].process.signal(t, syscall.SIGCONT)
	stop()
	group.Wait()
	t.Logf("%d updates, the longest took %v", updates, longest.Round(time.Millisecond))
	if longest > 5*time.Second || longest < 200*time.Millisecond {
		t.Errorf("the longest update took %v, want about the time until another leads", longest)
	}
}
