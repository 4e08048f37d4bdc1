package apiserver

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	metricsclient "k8s.io/metrics/pkg/client/clientset/versioned"
)

// serveAgent listens as a node's agent with the node's own certificate, accepts only the API server's certificate, and registers the node.
func serveAgent(t *testing.T, name string, handler http.Handler) {
	t.Helper()
	_, pair := shared.node(t, name)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if cn := r.TLS.PeerCertificates[0].Subject.CommonName; cn != "skep:apiserver" {
			t.Errorf("the agent is asked by %q", cn)
		}
		handler.ServeHTTP(w, r)
	}))
	server.Listener.Close()
	var err error
	if server.Listener, err = net.Listen("tcp", net.JoinHostPort(hostAddress(t), "0")); err != nil {
		t.Fatal(err)
	}
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: shared.pki.Pool()}
	server.StartTLS()
	t.Cleanup(server.Close)
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	registerNode(t, name, port)
}

// hostAddress is an address of this host that a node may have, so no loopback address.
func hostAddress(t *testing.T) string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range addrs {
		if ipnet, ok := addr.(*net.IPNet); ok && ipnet.IP.IsGlobalUnicast() && ipnet.IP.To4() != nil {
			return ipnet.IP.String()
		}
	}
	t.Fatal("this host has no IPv4 address but loopback: agents cannot be reached at that")
	return ""
}

func registerNode(t *testing.T, name, port string) {
	t.Helper()
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	nodes := shared.client.CoreV1().Nodes()
	node, err := nodes.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"test": t.Name()}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: hostAddress(t)}}
	node.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(number)
	if _, err := nodes.UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := nodes.Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
}

func TestLogsAndNodeProxy(t *testing.T) {
	ns := namespace(t)
	mux := http.NewServeMux()
	mux.HandleFunc("/containerLogs/{ns}/{pod}/{container}", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("container") == "d" {
			http.Error(w, `previous terminated container "d" in pod "p" not found`, http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, "%s %s %s %s\n", r.PathValue("ns"), r.PathValue("pod"), r.PathValue("container"), r.URL.RawQuery)
	})
	mux.HandleFunc("/pods", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s", r.URL, r.Header.Get("Authorization"))
	})
	serveAgent(t, "logs-1", mux)
	pods := shared.client.CoreV1().Pods(ns)
	_, err := pods.Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{NodeName: "logs-1",
		Containers: []corev1.Container{{Name: "c", Image: "i:1"}, {Name: "d", Image: "i:1"}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	lines := int64(3)
	logs := func(container string) (string, error) {
		stream, err := pods.GetLogs("p", &corev1.PodLogOptions{Container: container, TailLines: &lines, Timestamps: true}).Stream(t.Context())
		if err != nil {
			return "", err
		}
		defer stream.Close()
		data, err := io.ReadAll(stream)
		return string(data), err
	}
	if got, err := logs("c"); err != nil || got != ns+" p c tailLines=3&timestamps=true\n" {
		t.Errorf("logs: %q, %v", got, err)
	}
	for container, want := range map[string]string{
		"":  "a container name must be specified for pod p, choose one of: [c d]",
		"e": "container e is not valid for pod p",
		"d": `previous terminated container "d" in pod "p" not found`,
	} {
		if _, err := logs(container); !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("logs of %q: %v, want %q", container, err, want)
		}
	}
	header := http.Header{"Authorization": {"Bearer x"}}
	if response, body := shared.raw(t, shared.config, "GET", "/api/v1/nodes/logs-1/proxy/pods?a=b", header, ""); response.StatusCode != 200 || string(body) != "/pods?a=b " {
		t.Errorf("node proxy: %s %q", response.Status, body)
	}
	if response, body := shared.raw(t, shared.config, "GET", "/api/v1/nodes/none/proxy/pods", nil, ""); response.StatusCode != 404 {
		t.Errorf("proxy to no node: %s %q", response.Status, body)
	}
}

// A body cannot be sent twice, so it must not be sent on a kept connection: the agent may have ended since.
func TestBodiesGoToFreshConnections(t *testing.T) {
	serveAgent(t, "fresh-1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s from %s", body, r.RemoteAddr)
	}))
	seen := map[string]bool{}
	for range 3 {
		response, body := shared.raw(t, shared.config, "POST", "/api/v1/nodes/fresh-1/proxy/images/load", nil, "image")
		if response.StatusCode != 200 || !strings.HasPrefix(string(body), "image from ") || seen[string(body)] {
			t.Errorf("%s %q, seen before: %v", response.Status, body, seen[string(body)])
		}
		seen[string(body)] = true
	}
}

// A followed log arrives line by line, and the agent notices when the client has disconnected.
func TestFollowedLog(t *testing.T) {
	ns := namespace(t)
	lines, left := make(chan string), make(chan struct{})
	serveAgent(t, "follow-1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		for {
			select {
			case line := <-lines:
				fmt.Fprintln(w, line)
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				close(left)
				return
			}
		}
	}))
	makePod(t, ns, "p", "follow-1")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stream, err := shared.client.CoreV1().Pods(ns).GetLogs("p", &corev1.PodLogOptions{Follow: true}).Stream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	for _, want := range []string{"one\n", "two\n"} {
		lines <- strings.TrimSpace(want)
		if n, err := stream.Read(buf); err != nil || string(buf[:n]) != want {
			t.Fatalf("read %q, %v; want %q", buf[:n], err, want)
		}
	}
	cancel()
	select {
	case <-left:
	case <-time.After(10 * time.Second):
		t.Error("the agent was not told that the client has left")
	}
}

func uint64p(v uint64) *uint64 { return &v }

func summary(node string, pods ...*corev1.Pod) statsv1alpha1.Summary {
	at := metav1.Now()
	cpu := &statsv1alpha1.CPUStats{Time: at, UsageNanoCores: uint64p(250_000_000)}
	memory := &statsv1alpha1.MemoryStats{Time: at, WorkingSetBytes: uint64p(64 << 20)}
	s := statsv1alpha1.Summary{Node: statsv1alpha1.NodeStats{NodeName: node, CPU: cpu, Memory: memory}}
	for _, pod := range pods {
		s.Pods = append(s.Pods, statsv1alpha1.PodStats{
			PodRef:     statsv1alpha1.PodReference{Name: pod.Name, Namespace: pod.Namespace, UID: string(pod.UID)},
			Containers: []statsv1alpha1.ContainerStats{{Name: "c", CPU: cpu, Memory: memory}},
		})
	}
	return s
}

// An agent that accepts connections and never answers delays the others' figures by a second, and only its own are missing.
func TestMetricsWithADeadAgent(t *testing.T) {
	ns := namespace(t)
	live, dead := makePod(t, ns, "live", "stats-1"), makePod(t, ns, "dead", "stats-2")
	serveAgent(t, "stats-1", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(summary("stats-1", live, dead))
	}))
	silent, err := net.Listen("tcp", net.JoinHostPort(hostAddress(t), "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	_, port, err := net.SplitHostPort(silent.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	registerNode(t, "stats-2", port)
	client := metricsclient.NewForConfigOrDie(shared.config).MetricsV1beta1()
	started := time.Now()
	nodes, err := client.NodeMetricses().List(t.Context(), metav1.ListOptions{LabelSelector: "test=" + t.Name()})
	if took := time.Since(started); took > 1500*time.Millisecond {
		t.Errorf("a dead agent kept the list for %s", took)
	}
	if err != nil || len(nodes.Items) != 1 || nodes.Items[0].Name != "stats-1" || nodes.Items[0].Usage.Cpu().MilliValue() != 250 || nodes.Items[0].Usage.Memory().Value() != 64<<20 {
		t.Errorf("nodes: %+v, %v", nodes, err)
	}
	pods, err := client.PodMetricses(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app=live"})
	if err != nil || len(pods.Items) != 1 || pods.Items[0].Name != "live" || len(pods.Items[0].Containers) != 1 || pods.Items[0].Containers[0].Usage.Cpu().MilliValue() != 250 {
		t.Errorf("pods: %+v, %v", pods, err)
	}
	if _, err := client.NodeMetricses().Get(t.Context(), "stats-2", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the dead node's metrics: %v, want NotFound", err)
	}
	if one, err := client.PodMetricses(ns).Get(t.Context(), "live", metav1.GetOptions{}); err != nil || one.Labels["app"] != "live" {
		t.Errorf("one pod: %+v, %v", one, err)
	}
	if got, err := kubectl(t, "", "top", "nodes"); err != nil || !strings.Contains(got, "250m") || !strings.Contains(got, "64Mi") {
		t.Errorf("kubectl top nodes: %v\n%s", err, got)
	}
	if got, err := kubectl(t, "", "top", "pods", "-n", ns, "--containers"); err != nil || !strings.Contains(got, "live   c      250m         64Mi") {
		t.Errorf("kubectl top pods: %v\n%s", err, got)
	}
	makePod(t, ns, "far", "stats-3")
	registerNode(t, "stats-3", "1") // nothing listens there
	if _, err := shared.client.CoreV1().Pods(ns).GetLogs("far", &corev1.PodLogOptions{}).Stream(t.Context()); err == nil || !strings.Contains(err.Error(), "error dialing backend: the agent of node stats-3 cannot be reached") {
		t.Errorf("logs from an agent that is down: %v", err)
	}
}
