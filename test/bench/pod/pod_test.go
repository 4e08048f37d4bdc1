package pod

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/agent/runtime/runtimetest"
	"github.com/skep-io/skep/cmd/skep/cluster"
	"github.com/skep-io/skep/test/bench/onehost"
)

const (
	image  = "skep.test/busybox:1"
	rounds = 60
	warmUp = 5
)

// BenchmarkStart reports medians and 99th percentiles in milliseconds, and
// how many times a bare container's time a pod takes.
func BenchmarkStart(b *testing.B) {
	local := onehost.Up(b)
	client, err := local.Client()
	if err != nil {
		b.Fatal(err)
	}
	archive := runtimetest.Archive(b, image, runtimetest.Image(b, nil)).Bytes()
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil }
	if err := cluster.LoadImage(b.Context(), client, []string{"node1"}, open, func(string) {}); err != nil {
		b.Fatal(err)
	}
	bare := newBare(b, local, archive)
	for b.Loop() {
		var pods, containers []time.Duration
		for i := range warmUp + rounds {
			c, p := bare.start(b, i), startPod(b, client, i)
			if i >= warmUp {
				containers, pods = append(containers, c), append(pods, p)
			}
		}
		report(b, "containerd", containers)
		report(b, "pod", pods)
		b.ReportMetric(float64(quantile(pods, 50))/float64(quantile(containers, 50)), "ratio-p50")
		b.ReportMetric(float64(quantile(pods, 99))/float64(quantile(containers, 99)), "ratio-p99")
	}
}

func report(b *testing.B, name string, durations []time.Duration) {
	for _, percent := range []int{50, 99} {
		b.ReportMetric(float64(quantile(durations, percent))/1e6, fmt.Sprintf("%s-p%d-ms", name, percent))
	}
}

func quantile(durations []time.Duration, percent int) time.Duration {
	sorted := slices.Sorted(slices.Values(durations))
	return sorted[(len(sorted)-1)*percent/100]
}

// startPod takes the time until the pod is seen running, and removes it.
func startPod(b *testing.B, client kubernetes.Interface, i int) time.Duration {
	b.Helper()
	name := fmt.Sprintf("pod-%d", i)
	pods := client.CoreV1().Pods("default")
	seen, err := pods.Watch(b.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		b.Fatal(err)
	}
	defer seen.Stop()
	began := time.Now()
	_, err = pods.Create(b.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			Containers:                   []corev1.Container{{Name: "main", Image: image, ImagePullPolicy: corev1.PullNever, Command: []string{"sleep", "1000"}}},
			AutomountServiceAccountToken: ptr.To(false),
		},
	}, metav1.CreateOptions{})
	if err != nil {
		b.Fatal(err)
	}
	await(b, seen, func(e watch.Event) bool {
		pod, ok := e.Object.(*corev1.Pod)
		return ok && pod.Status.Phase == corev1.PodRunning
	})
	took := time.Since(began)
	if err := pods.Delete(b.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](1)}); err != nil {
		b.Fatal(err)
	}
	await(b, seen, func(e watch.Event) bool { return e.Type == watch.Deleted })
	return took
}

func await(b *testing.B, seen watch.Interface, done func(watch.Event) bool) {
	b.Helper()
	limit := time.After(time.Minute)
	for {
		select {
		case e, ok := <-seen.ResultChan():
			if !ok {
				b.Fatal("the watch ended")
			}
			if done(e) {
				return
			}
		case <-limit:
			b.Fatal("the pod's state did not change in a minute")
		}
	}
}

// bare is containerd's own client, in a namespace that the agent does not
// use.
type bare struct {
	client *containerd.Client
	image  containerd.Image
	ctx    context.Context
}

func newBare(b *testing.B, local *cluster.Cluster, archive []byte) *bare {
	b.Helper()
	node, err := local.Node("node1")
	if err != nil {
		b.Fatal(err)
	}
	socket, err := node.HostPath("/run/skep-agent/containerd/containerd.sock")
	if err != nil {
		b.Fatal(err)
	}
	client, err := containerd.New(socket)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { client.Close() })
	ctx := namespaces.WithNamespace(context.Background(), "bench")
	imported, err := client.Import(ctx, bytes.NewReader(archive))
	if err != nil || len(imported) != 1 {
		b.Fatalf("import: %v, %v", imported, err)
	}
	img := containerd.NewImage(client, imported[0])
	if err := img.Unpack(ctx, "overlayfs"); err != nil {
		b.Fatal(err)
	}
	return &bare{client, img, ctx}
}

// start takes the time until the container's process runs, and removes it.
func (r *bare) start(b *testing.B, i int) time.Duration {
	b.Helper()
	id := fmt.Sprintf("bare-%d", i)
	began := time.Now()
	container, err := r.client.NewContainer(r.ctx, id, containerd.WithSnapshotter("overlayfs"), containerd.WithNewSnapshot(id, r.image),
		containerd.WithNewSpec(oci.WithImageConfig(r.image), oci.WithProcessArgs("sleep", "1000")))
	if err != nil {
		b.Fatal(err)
	}
	task, err := container.NewTask(r.ctx, cio.NullIO)
	if err != nil {
		b.Fatal(err)
	}
	if err := task.Start(r.ctx); err != nil {
		b.Fatal(err)
	}
	took := time.Since(began)
	if _, err := task.Delete(r.ctx, containerd.WithProcessKill); err != nil {
		b.Fatal(err)
	}
	if err := container.Delete(r.ctx, containerd.WithSnapshotCleanup); err != nil {
		b.Fatal(err)
	}
	return took
}
