package apiserver

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
)

// tunnelTo is an agent that connects every asked address to target, as agents do with their pods.
func tunnelTo(t *testing.T, wanted string, target string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /connect/{address}", func(w http.ResponseWriter, r *http.Request) {
		if got := r.PathValue("address"); !strings.HasPrefix(got, wanted+":") {
			http.Error(w, "no pod of this node has the address "+got, http.StatusNotFound)
			return
		}
		pod, err := net.Dial("tcp", target)
		if err != nil {
			t.Error(err)
			return
		}
		defer pod.Close()
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "tcp")
		w.Header().Set("Asked", r.PathValue("address"))
		w.WriteHeader(http.StatusSwitchingProtocols)
		client, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer client.Close()
		go func() { _, _ = io.Copy(pod, buffered) }()
		_, _ = io.Copy(client, pod)
	})
	return mux
}

// webPod makes a pod and a service in front of it, whose requests a handler of the test answers.
func webPod(t *testing.T, node string, secure bool, handler http.HandlerFunc) (namespaceName string) {
	t.Helper()
	ns := namespace(t)
	server := httptest.NewUnstartedServer(handler)
	if secure {
		server.StartTLS()
	} else {
		server.Start()
	}
	t.Cleanup(server.Close)
	serveAgent(t, node, tunnelTo(t, "10.244.7.7", server.Listener.Addr().String()))
	pod, err := shared.client.CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.PodSpec{NodeName: node,
		Containers: []corev1.Container{{Name: "c", Image: "i:1", Ports: []corev1.ContainerPort{{ContainerPort: 8080}}}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod.Status.PodIP, pod.Status.PodIPs = "10.244.7.7", []corev1.PodIP{{IP: "10.244.7.7"}}
	if _, err := shared.client.CoreV1().Pods(ns).UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err = shared.client.CoreV1().Services(ns).Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}, {Name: "idle", Port: 81}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	endpoint := func(address, pod string) discoveryv1.Endpoint {
		return discoveryv1.Endpoint{Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: ns, Name: pod}}
	}
	_, err = shared.client.DiscoveryV1().EndpointSlices(ns).Create(t.Context(), &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}}, AddressType: discoveryv1.AddressTypeIPv4,
		// The first is an address that no pod has: the proxy must not connect to it.
		Endpoints: []discoveryv1.Endpoint{endpoint("192.0.2.1", "web"), endpoint("10.244.7.7", "web"), endpoint("10.244.7.7", "other")},
		Ports:     []discoveryv1.EndpointPort{{Name: ptr.To("http"), Port: ptr.To[int32](9090)}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

func TestProxyToPodsAndServices(t *testing.T) {
	ns := webPod(t, "proxy-1", false, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch r.URL.Path {
		case "/page":
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, `<a href="/other">there</a>`)
		case "/moved":
			http.Redirect(w, r, "/other", http.StatusFound)
		default:
			fmt.Fprintf(w, "%s %s %s %q", r.Method, r.URL, body, r.Header.Get("Authorization"))
		}
	})
	base := "/api/v1/namespaces/" + ns
	for _, test := range []struct {
		method, path, body string
		code               int
		want               string
	}{
		{"GET", "/pods/web/proxy/a/b?c=d", "", 200, `GET /a/b?c=d  ""`},
		{"POST", "/pods/http:web:1234/proxy/", "x", 200, `POST / x ""`},
		{"PUT", "/services/web:http/proxy/p", "y", 200, `PUT /p y ""`},
		{"PATCH", "/services/http:web:80/proxy/p", "z", 200, `PATCH /p z ""`},
		{"DELETE", "/services/web:80/proxy", "", 200, `DELETE /  ""`},
		{"OPTIONS", "/pods/web/proxy", "", 200, `OPTIONS /  ""`},
		{"HEAD", "/pods/web/proxy/a", "", 200, ""},
		{"GET", "/pods/web/proxy/page", "", 200, `<a href="` + base + `/pods/web/proxy/other">there</a>`},
		{"GET", "/services/web:82/proxy/", "", 503, `no service port 82 found for service \"web\"`},
		{"GET", "/services/web:idle/proxy/", "", 503, `no endpoints available for service \"web\"`},
		{"GET", "/services/none/proxy/", "", 404, `services \"none\" not found`},
		{"GET", "/pods/ftp:web:1:2/proxy/", "", 400, `invalid pod request \"ftp:web:1:2\"`},
		{"GET", "/pods/none/proxy/", "", 404, `pods \"none\" not found`},
	} {
		response, body := shared.raw(t, shared.config, test.method, base+test.path, http.Header{"Authorization": {"Bearer secret"}}, test.body)
		if response.StatusCode != test.code || !strings.Contains(string(body), test.want) {
			t.Errorf("%s %s: %s %s, want %d %s", test.method, test.path, response.Status, body, test.code, test.want)
		}
	}
}

// Relative links need the slash, and redirects have to lead through the proxy again.
func TestProxyRedirects(t *testing.T) {
	ns := webPod(t, "proxy-2", false, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/other", http.StatusFound) })
	base := "/api/v1/namespaces/" + ns
	for path, want := range map[string]string{
		"/pods/web/proxy?q=1":        base + "/pods/web/proxy/?q=1",
		"/services/web:http/proxy":   base + "/services/web:http/proxy/",
		"/services/web:http/proxy/x": base + "/services/web:http/proxy/other",
	} {
		response, body := shared.raw(t, shared.config, "GET", base+path, nil, "")
		if got := response.Header.Get("Location"); got != want || response.StatusCode/100 != 3 {
			t.Errorf("GET %s: %s to %q, want %q (%s)", path, response.Status, got, want, body)
		}
	}
}

func TestProxyToSecurePod(t *testing.T) {
	ns := webPod(t, "proxy-3", true, func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%t", r.TLS != nil) })
	response, body := shared.raw(t, shared.config, "GET", "/api/v1/namespaces/"+ns+"/pods/https:web:443/proxy/", nil, "")
	if response.StatusCode != 200 || string(body) != "true" {
		t.Errorf("https: %s %s", response.Status, body)
	}
	// Plain HTTP is passed on, and the pod refuses it.
	if response, body = shared.raw(t, shared.config, "GET", "/api/v1/namespaces/"+ns+"/pods/web/proxy/", nil, ""); response.StatusCode != 400 {
		t.Errorf("http to a TLS server: %s %s", response.Status, body)
	}
}

// A pod that the agent does not have, a node without an agent and a pod without an address have different errors.
func TestProxyWhereNobodyAnswers(t *testing.T) {
	ns := webPod(t, "proxy-4", false, nil)
	pods := shared.client.CoreV1().Pods(ns)
	for name, ip := range map[string]string{"moved": "10.244.7.8", "early": ""} {
		pod, err := pods.Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{NodeName: "proxy-4",
			Containers: []corev1.Container{{Name: "c", Image: "i:1"}}}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if ip == "" {
			continue
		}
		pod.Status.PodIP, pod.Status.PodIPs = ip, []corev1.PodIP{{IP: ip}}
		if _, err := pods.UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{
		"/pods/moved:80/proxy/": "error trying to reach service: the agent at " + hostAddress(t) + ":",
		"/pods/early/proxy/":    "address not allowed",
	} {
		response, body := shared.raw(t, shared.config, "GET", "/api/v1/namespaces/"+ns+path, nil, "")
		if response.StatusCode < 400 || !strings.Contains(string(body), want) {
			t.Errorf("GET %s: %s %s, want %q", path, response.Status, body, want)
		}
	}
}

// A protocol of the pod's own goes through: the connection is handed over.
func TestProxyUpgrade(t *testing.T) {
	ns := webPod(t, "proxy-5", false, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "lines")
		w.WriteHeader(http.StatusSwitchingProtocols)
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		line, err := buffered.ReadString('\n')
		if err != nil {
			t.Error(err)
		}
		fmt.Fprintf(conn, "you said %s", line)
	})
	certificates, err := rest.TLSConfigFor(shared.config)
	if err != nil {
		t.Fatal(err)
	}
	certificates.NextProtos = []string{"http/1.1"}
	conn, err := tls.Dial("tcp", strings.TrimPrefix(shared.url, "https://"), certificates)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://localhost/api/v1/namespaces/"+ns+"/pods/web:80/proxy/", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Connection", "Upgrade")
	request.Header.Set("Upgrade", "lines")
	if err := request.Write(conn); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, request)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %v, %v", response, err)
	}
	fmt.Fprintln(conn, "hello")
	if line, err := reader.ReadString('\n'); err != nil || line != "you said hello\n" {
		t.Errorf("answer %q, %v", line, err)
	}
}
