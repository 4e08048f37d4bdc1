package memory

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/cmd/skep/cluster"
	"github.com/skep-io/skep/dataplane/service"
	"github.com/skep-io/skep/test/bench/onehost"
)

const (
	endpointsEach = 5
	workers       = 16
	patience      = 10 * time.Minute
)

// BenchmarkAgent adds services to one cluster and reads the agent's memory when its maps have them.
func BenchmarkAgent(b *testing.B) {
	local := onehost.Up(b)
	config, err := local.RESTConfig()
	if err != nil {
		b.Fatal(err)
	}
	config.QPS = -1
	config.ContentType = "application/vnd.kubernetes.protobuf"
	client := kubernetes.NewForConfigOrDie(config)
	made := 0
	for _, services := range []int{1, 10_000, 50_000} {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) {
			for b.Loop() {
				makeServices(b, client, made, services)
				made = services
				awaitMaps(b, local, services)
			}
			for name, kib := range agentMemory(b, local) {
				b.ReportMetric(float64(kib)*1024/1e6, name+"-MB")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// makeServices adds services, without selectors, and their endpoints, those from one number to another.
func makeServices(b *testing.B, client kubernetes.Interface, from, to int) {
	b.Helper()
	numbers, failed := make(chan int), make(chan error, workers)
	var running sync.WaitGroup
	for range workers {
		running.Go(func() {
			for i := range numbers {
				if err := makeService(b.Context(), client, i); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	for i := from; i < to; i++ {
		select {
		case numbers <- i:
		case err := <-failed:
			b.Fatal(err)
		}
		if i%5000 == 4999 {
			fmt.Fprintf(os.Stderr, "%d of %d services made\n", i+1, to)
		}
	}
	close(numbers)
	running.Wait()
	select {
	case err := <-failed:
		b.Fatal(err)
	default:
	}
}

func makeService(ctx context.Context, client kubernetes.Interface, i int) error {
	name := fmt.Sprintf("bench-%d", i)
	if _, err := client.CoreV1().Services("default").Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}},
	}, metav1.CreateOptions{}); err != nil {
		return err
	}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name, discoveryv1.LabelManagedBy: "bench"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To(""), Port: ptr.To[int32](8080), Protocol: ptr.To(corev1.ProtocolTCP)}},
	}
	for k := range endpointsEach {
		n := i*endpointsEach + k
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{fmt.Sprintf("10.%d.%d.%d", 128+n>>16, n>>8&255, n&255)}, NodeName: ptr.To(fmt.Sprintf("node%d", 2+n%999)),
		})
	}
	_, err := client.DiscoveryV1().EndpointSlices("default").Create(ctx, slice, metav1.CreateOptions{})
	return err
}

// awaitMaps returns when the host's maps have all services with all endpoints. It reads the maps itself: an agent that is
// asked would need memory to answer.
func awaitMaps(b *testing.B, local *cluster.Cluster, services int) {
	b.Helper()
	node, err := local.Node("node1")
	if err != nil {
		b.Fatal(err)
	}
	pins, err := node.HostPath("/sys/fs/bpf/skep")
	if err != nil {
		b.Fatal(err)
	}
	again := time.NewTicker(time.Second)
	defer again.Stop()
	for late := time.After(patience); ; {
		d, err := service.DumpPinned(pins)
		if err != nil {
			b.Fatal(err)
		}
		complete := 0
		for _, s := range d.Services {
			if len(s.Slots) == endpointsEach {
				complete++
			}
		}
		if complete >= services {
			return
		}
		select {
		case <-again.C:
		case <-late:
			b.Fatalf("after %v the maps have %d of %d services", patience, complete, services)
		}
	}
}

// agentMemory sums the memory of the host's processes whose program is skep-agent, in KiB.
func agentMemory(b *testing.B, local *cluster.Cluster) map[string]uint64 {
	b.Helper()
	node, err := local.Node("node1")
	if err != nil {
		b.Fatal(err)
	}
	power, err := node.Power()
	if err != nil {
		b.Fatal(err)
	}
	sums := map[string]uint64{}
	for _, pid := range descendants(power.PID) {
		program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if err != nil || filepath.Base(program) != "skep-agent" {
			continue
		}
		file, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			b.Fatal(err)
		}
		defer file.Close()
		for scan := bufio.NewScanner(file); scan.Scan(); {
			var kib uint64
			for line, name := range map[string]string{"Rss: %d kB": "rss", "Anonymous: %d kB": "anonymous"} {
				if n, _ := fmt.Sscanf(scan.Text(), line, &kib); n == 1 {
					sums[name] += kib
				}
			}
		}
	}
	if sums["rss"] == 0 {
		b.Fatalf("no skep-agent runs below process %d", power.PID)
	}
	return sums
}

func descendants(pid int) (all []int) {
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
	for field := range bytes.FieldsSeq(children) {
		child, err := strconv.Atoi(string(field))
		if err == nil {
			all = append(append(all, child), descendants(child)...)
		}
	}
	return all
}
