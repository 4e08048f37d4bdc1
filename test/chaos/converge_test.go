package chaos

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/cmd/skep/cluster"
	"github.com/skep-io/skep/test/clustertest"
)

// lookUp, if set to NAME@SERVER, has the test binary ask a DNS server for a name and print the answer.
const lookUp = "SKEP_CHAOS_LOOK_UP"

func resolve(question string) {
	name, server, _ := strings.Cut(question, "@")
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, server)
	}}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	addresses, err := resolver.LookupHost(ctx, name)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Print(strings.Join(addresses, ","))
}

// until tries again until it succeeds, and fails the test if that takes longer than a recovery may.
func (r *run) until(ctx context.Context, what string, try func() error) {
	r.Helper()
	began := time.Now()
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Since(began) > recovery || ctx.Err() != nil {
			r.note("VIOLATED: within %s not so: %s: %v", recovery, what, err)
			r.Fatalf("violated: within %s not so: %s: %v", recovery, what, err)
		}
		sleep(ctx, 100*time.Millisecond)
	}
}

// replicas says whether the load's pods are what their owners want.
func (r *run) replicas(ctx context.Context) error {
	for label, want := range map[string]int{"web": webReplicas, "identity": identities} {
		list, err := r.apis[0].CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + label})
		if err != nil {
			return err
		}
		if !clustertest.AllReady(want)(list.Items) {
			var pods []string
			for _, p := range list.Items {
				pods = append(pods, fmt.Sprintf("%s on %s: %s, ready %v, being deleted %v", p.Name, p.Spec.NodeName, p.Status.Phase, clustertest.Ready(p), p.DeletionTimestamp != nil))
			}
			return fmt.Errorf("of %s there are to be %d ready pods, and there are\n\t%s", label, want, strings.Join(pods, "\n\t"))
		}
	}
	return nil
}

// converges waits until everything is as it was before the faults.
func (r *run) converges(ctx context.Context) {
	r.Helper()
	began := time.Now()
	for i, api := range r.apis {
		r.until(ctx, fmt.Sprintf("server %d is ready", i+1), func() error {
			return api.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
		})
	}
	r.until(ctx, "all hosts are ready", func() error {
		list, err := r.apis[0].CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, n := range list.Items {
			if len(n.Spec.Taints) > 0 || !slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
				return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
			}) {
				return fmt.Errorf("%s has the taints %v and the conditions %v", n.Name, n.Spec.Taints, n.Status.Conditions)
			}
		}
		return nil
	})
	r.until(ctx, "the pods are what their owners want", func() error { return r.replicas(ctx) })
	r.until(ctx, "cluster DNS has all its pods", func() error {
		list, err := r.apis[0].CoreV1().ReplicationControllers("kube-system").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		if len(list.Items) == 0 {
			return fmt.Errorf("it has no controller")
		}
		for _, c := range list.Items {
			if c.Status.ReadyReplicas != *c.Spec.Replicas {
				return fmt.Errorf("%s: %d of %d are ready", c.Name, c.Status.ReadyReplicas, *c.Spec.Replicas)
			}
		}
		return nil
	})
	r.until(ctx, "the service maps of all hosts hold what the API says", func() error {
		out, err := r.c.Skep(ctx, "", "dataplane", "verify")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	service, err := r.apis[0].CoreV1().Services(namespace).Get(ctx, "web", metav1.GetOptions{})
	if err != nil {
		r.Fatal(err)
	}
	for _, host := range r.hosts {
		r.until(ctx, "DNS answers on "+host.Name, func() error {
			var out, said strings.Builder
			err := host.Exec(ctx, cluster.ExecOptions{Stdout: &out, Stderr: &said, Env: []string{lookUp + "=web." + namespace + ".svc.cluster.local.@10.96.0.10:53"}}, os.Args[0])
			if err != nil || out.String() != service.Spec.ClusterIP {
				return fmt.Errorf("the address of web is %q, want %s (%v: %s)", out.String(), service.Spec.ClusterIP, err, said.String())
			}
			return nil
		})
	}
	r.until(ctx, "connections from all hosts without a failure for 3 s", func() error {
		r.mu.Lock()
		failed, made := r.failed, len(r.attempts)
		r.mu.Unlock()
		sleep(ctx, 3*time.Second)
		r.mu.Lock()
		defer r.mu.Unlock()
		from := map[string]bool{}
		for _, a := range r.attempts[made:] {
			from[a.Host] = true
		}
		if r.failed != failed || len(from) != len(r.hosts) {
			return fmt.Errorf("%d failed, and %d were made from %d hosts", r.failed-failed, len(r.attempts)-made, len(from))
		}
		return nil
	})
	r.note("everything is as it should be %.1fs after the last fault", time.Since(began).Seconds())
}
