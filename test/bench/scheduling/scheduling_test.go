package scheduling

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/etcd"
	"github.com/skep-io/skep/test/bench/skepd"
)

const (
	nodes     = 5000
	podsRound = 2000
	workers   = 32
)

// baseline names, in the environment, another skepd program, that of an earlier revision say, to measure in turns with bin/skepd.
const baseline = "SKEPD_BASELINE"

// BenchmarkPods creates 2,000 pods in each iteration and waits until all are bound, with etcd alone, two writes of the same size a
// pod, as the baseline of the same run.
func BenchmarkPods(b *testing.B) {
	programs := map[string]string{"skepd": "../../../bin/skepd"}
	if other := os.Getenv(baseline); other != "" {
		programs["baseline"] = other
	}
	running := map[string]*control{}
	for name, program := range programs {
		running[name] = &control{skepd.Start(b, program, "--pod-cidr", "172.16.0.0/12", "--node-cidr-mask-size", "26",
			"--node-monitor-grace", "10h")} // the nodes are silent
	}
	memory := map[string]float64{}
	for name, s := range running {
		memory[name+"-idle-MB"] = s.ResidentMB(b)
		s.makeNodes(b)
	}
	for name, s := range running {
		memory[name+"-nodes-MB"] = s.ResidentMB(b)
	}
	store := startEtcd(b)
	rates := map[string][]float64{}
	for round := 0; b.Loop(); round++ {
		for name, s := range running {
			rates[name] = append(rates[name], podsRound/s.bindPods(b, round).Seconds())
		}
		rates["etcd"] = append(rates["etcd"], podsRound/writePods(b, store, round).Seconds())
	}
	median := map[string]float64{}
	for name, list := range rates {
		slices.Sort(list)
		median[name] = list[len(list)/2]
		b.ReportMetric(median[name], name+"-pods/s")
	}
	for name := range rates {
		if name != "skepd" {
			b.ReportMetric(median["skepd"]/median[name], "skepd/"+name)
		}
	}
	for unit, figure := range memory {
		b.ReportMetric(figure, unit)
	}
	b.ReportMetric(0, "ns/op")
}

// control is a control plane that is measured.
type control struct{ *skepd.Process }

// each calls do for 0 to n-1 from several goroutines.
func each(b *testing.B, n int, do func(ctx context.Context, i int) error) {
	b.Helper()
	group, ctx := errgroup.WithContext(b.Context())
	for worker := range workers {
		group.Go(func() error {
			for i := worker; i < n; i += workers {
				if err := do(ctx, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
}

func (s *control) makeNodes(b *testing.B) {
	b.Helper()
	capacity := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("32"), corev1.ResourceMemory: resource.MustParse("128Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	each(b, nodes, func(ctx context.Context, i int) error {
		now := metav1.Now()
		node := &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("node%d", i), Labels: map[string]string{corev1.LabelTopologyZone: fmt.Sprintf("zone%d", i%3)}},
			Status: corev1.NodeStatus{
				Capacity: capacity, Allocatable: capacity,
				Conditions: []corev1.NodeCondition{{
					Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Bench", LastHeartbeatTime: now, LastTransitionTime: now,
				}},
			},
		}
		_, err := s.Client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
		return err
	})
}

// bindPods is the time from the first pod's creation to the last one's binding.
func (s *control) bindPods(b *testing.B, round int) time.Duration {
	b.Helper()
	namespace := fmt.Sprintf("round%d", round)
	ctx, cancel := context.WithTimeout(b.Context(), 5*time.Minute)
	defer cancel()
	if _, err := s.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	watch, err := s.Client.CoreV1().Pods(namespace).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer watch.Stop()
	bound := make(chan error, 1)
	go func() {
		names := map[string]bool{}
		for event := range watch.ResultChan() {
			if pod, ok := event.Object.(*corev1.Pod); ok && pod.Spec.NodeName != "" {
				names[pod.Name] = true
			}
			if len(names) == podsRound {
				bound <- nil
				return
			}
		}
		bound <- fmt.Errorf("the watch of pods ended with %d of %d bound", len(names), podsRound)
	}()
	began := time.Now()
	each(b, podsRound, func(ctx context.Context, i int) error {
		_, err := s.Client.CoreV1().Pods(namespace).Create(ctx, pod(fmt.Sprintf("pod%d", i)), metav1.CreateOptions{})
		return err
	})
	if err := <-bound; err != nil {
		b.Fatal(err)
	}
	return time.Since(began)
}

func pod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "bench"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "main", Image: "registry.example/app:1",
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("64Mi"),
			}},
		}}},
	}
}

func startEtcd(b *testing.B) *clientv3.Client {
	b.Helper()
	server, err := etcd.Start(b.Context(), etcd.Config{DataDir: skepd.MemoryDir(b)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(server.Close)
	return server.Client
}

// writePods does to etcd what the pods of a round need at least: each is written, and written again with its node.
func writePods(b *testing.B, client *clientv3.Client, round int) time.Duration {
	b.Helper()
	value := string(make([]byte, 700)) // about what a stored pod of pod has
	began := time.Now()
	each(b, podsRound, func(ctx context.Context, i int) error {
		key := fmt.Sprintf("/registry/pods/round%d/pod%d", round, i)
		answer, err := client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).Then(clientv3.OpPut(key, value)).Commit()
		if err != nil {
			return err
		}
		_, err = client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", answer.Header.Revision)).Then(clientv3.OpPut(key, value)).Commit()
		return err
	})
	return time.Since(began)
}
