package apiserver

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/proxy"
	streamproxy "k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/scheme"
)

// stream answers exec, attach and portforward: it finds the agent of the pod and passes bytes between client and agent, in whatever
// protocol they agree on.
func (s *Server) stream(w http.ResponseWriter, c *call) error {
	pod, err := s.boundPod(c)
	if err != nil {
		return err
	}
	path := fmt.Sprintf("/portForward/%s/%s", pod.Namespace, pod.Name)
	query := url.Values{}
	if c.subresource == "portforward" {
		query["port"] = c.query["ports"]
	} else {
		container, err := containerOf(pod, c.query.Get("container"))
		if err != nil {
			return err
		}
		path = fmt.Sprintf("/%s/%s/%s/%s", c.subresource, pod.Namespace, pod.Name, container)
		if query, err = streamQuery(c); err != nil {
			return err
		}
	}
	location, err := s.agents.location(c.Context(), pod.Spec.NodeName, path, query)
	if err != nil {
		return err
	}
	s.carry(w, c, func(w http.ResponseWriter, c *call) {
		translated(s.proxy(c, pod.Spec.NodeName, location, true), location, s.agents.of(c.Context(), pod.Spec.NodeName), c).ServeHTTP(w, forAgent(c))
	})
	return nil
}

// translated handles kubectl's own protocols over WebSocket here, since agents speak SPDY: version 5 of remote commands, which can signal
// the end of input, and the tunnel for forwarded ports. Other clients' bytes go to the agent unchanged.
func translated(direct http.Handler, location *url.URL, transport http.RoundTripper, c *call) http.Handler {
	switch {
	case c.subresource == "portforward" && wsstream.IsWebSocketRequestWithTunnelingProtocol(c.Request):
		return streamproxy.NewTunnelingHandler(direct)
	case c.subresource != "portforward" && wsstream.IsWebSocketRequestWithStreamCloseProtocol(c.Request):
		query := location.Query()
		return streamproxy.NewStreamTranslatorHandler(location, transport, 0, streamproxy.Options{
			Stdin: query.Has("input"), Stdout: query.Has("output"), Stderr: query.Has("error") && !query.Has("tty"), Tty: query.Has("tty"),
		})
	}
	return direct
}

// streamQuery returns the options of exec and attach under the names that agents use.
func streamQuery(c *call) (url.Values, error) {
	query := url.Values{}
	for theirs, ours := range map[string]string{"stdin": "input", "stdout": "output", "stderr": "error", "tty": "tty"} {
		if isTrue(c.query, theirs) {
			query.Set(ours, "1")
		}
	}
	if !query.Has("input") && !query.Has("output") && !query.Has("error") {
		return nil, apierrors.NewBadRequest("you must specify at least 1 of stdin, stdout, stderr")
	}
	if c.subresource == "exec" {
		if len(c.query["command"]) == 0 {
			return nil, apierrors.NewBadRequest("you must specify at least one command for the container")
		}
		query["command"] = c.query["command"]
	}
	return query, nil
}

func (s *Server) proxy(c *call, nodeName string, location *url.URL, upgrade bool) http.Handler {
	handler := proxy.NewUpgradeAwareHandler(location, s.agents.of(c.Context(), nodeName), false, upgrade, proxyErrors{location.Host})
	handler.UseLocationHost = true
	return handler
}

// forAgent is the request as it goes to an agent, without the client's Authorization header: the API server has authenticated the client.
// The libraries that carry streams log every disconnected client as an error through the context's logger, which is replaced by an empty
// one; errors of an agent are returned to the client.
func forAgent(c *call) *http.Request {
	request := c.Clone(klog.NewContext(c.Context(), klog.Logger{}))
	request.Header.Del("Authorization")
	return request
}

// defaultLookEvery is how often it is checked that a client is still connected while nothing is read from it.
const defaultLookEvery = 5 * time.Second

// carry serves a request whose connection may become a stream, with a context that ends when the client has disconnected. Connections that
// were dialled for the request end then.
func (s *Server) carry(w http.ResponseWriter, c *call, handle func(http.ResponseWriter, *call)) {
	s.streams.Serve(w, c.Request, func(w http.ResponseWriter, r *http.Request) {
		carried := *c
		carried.Request = r
		handle(w, &carried)
	})
}

// proxyErrors answers for an agent that could not be reached.
type proxyErrors struct{ host string }

func (p proxyErrors) Error(w http.ResponseWriter, r *http.Request, err error) {
	if status := apierrors.APIStatus(nil); !asStatus(err, &status) {
		err = unreachable(p.host, err)
	}
	writeError(w, r, err)
}

// boundPod returns the pod that a request is about. A pod without a node is an error: there is no agent to connect to.
func (s *Server) boundPod(c *call) (*corev1.Pod, error) {
	obj, err := s.registry.Get(c.Context(), kinds.Pods, c.namespace, c.name, "")
	if err != nil {
		return nil, err
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("pod %s/%s is a %T", c.namespace, c.name, obj))
	}
	if pod.Spec.NodeName == "" {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))
	}
	return pod, nil
}

// containerOf returns the name of the container that is meant, which may be omitted where there is only one.
func containerOf(pod *corev1.Pod, name string) (string, error) {
	names := func(containers []corev1.Container) (out []string) {
		for i := range containers {
			out = append(out, containers[i].Name)
		}
		return out
	}
	main, initial := names(pod.Spec.Containers), names(pod.Spec.InitContainers)
	var ephemeral []string
	for i := range pod.Spec.EphemeralContainers {
		ephemeral = append(ephemeral, pod.Spec.EphemeralContainers[i].Name)
	}
	switch {
	case name == "" && len(main) == 1:
		return main[0], nil
	case name == "":
		message := fmt.Sprintf("a container name must be specified for pod %s, choose one of: [%s]", pod.Name, strings.Join(main, " "))
		if len(initial) > 0 {
			message += fmt.Sprintf(" or one of the init containers: [%s]", strings.Join(initial, " "))
		}
		return "", apierrors.NewBadRequest(message)
	case !slices.Contains(slices.Concat(main, initial, ephemeral), name):
		return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name))
	}
	return name, nil
}

// logQuery are the options of log that agents have under the same name.
var logQuery = []string{"follow", "previous", "timestamps", "sinceSeconds", "sinceTime", "tailLines", "limitBytes", "stream"}

// log answers with a container's output.
func (s *Server) log(w http.ResponseWriter, c *call) error {
	var options corev1.PodLogOptions
	if err := scheme.Scheme.Convert(&c.query, &options, nil); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	pod, err := s.boundPod(c)
	if err != nil {
		return err
	}
	container, err := containerOf(pod, options.Container)
	if err != nil {
		return err
	}
	query := url.Values{}
	for _, name := range logQuery {
		if c.query.Has(name) {
			query[name] = c.query[name]
		}
	}
	location, err := s.agents.location(c.Context(), pod.Spec.NodeName,
		fmt.Sprintf("/containerLogs/%s/%s/%s", pod.Namespace, pod.Name, container), query)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(c.Context(), http.MethodGet, location.String(), nil)
	if err != nil {
		return err
	}
	response, err := s.agents.transport.RoundTrip(request)
	if err != nil {
		return unreachable(location.Host, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 4<<10)) // what could be read is better than nothing
		return agentError(response.StatusCode, string(text))
	}
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(http.StatusOK)
	copyFlushing(w, response.Body)
	return nil
}

// agentError passes on an agent's error.
func agentError(code int, text string) error {
	reason := metav1.StatusReasonUnknown
	switch code {
	case http.StatusBadRequest:
		reason = metav1.StatusReasonBadRequest
	case http.StatusNotFound:
		reason = metav1.StatusReasonNotFound
	case http.StatusInternalServerError:
		reason = metav1.StatusReasonInternalError
	}
	text = strings.TrimSpace(text)
	if text == "" {
		text = fmt.Sprintf("the node's agent answered %d %s", code, http.StatusText(code))
	}
	return statusError(int32(code), reason, text)
}

// copyFlushing passes a stream on as it comes: a client that follows a log is to get each line at once.
func copyFlushing(w http.ResponseWriter, from io.Reader) {
	control := http.NewResponseController(w)
	_ = control.Flush()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return
			}
			_ = control.Flush()
		}
		if err != nil {
			return
		}
	}
}
