package attacks

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// administrator is a transport with connections of its own and the administrator's certificate.
func administrator(t *testing.T) *http.Transport {
	t.Helper()
	config, err := local.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	tlsConfig, err := rest.TLSConfigFor(config)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

// CVE-2019-1002100, CVE-2019-11253: small bodies that expand to large ones. Each is answered by a Status with the code that says why.
func TestBodiesThatUnfold(t *testing.T) {
	s := newSpace(t)
	target := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "target"}, Data: map[string]string{"a": strings.Repeat("x", 100<<10)}}
	if _, err := local.API.CoreV1().ConfigMaps(s.Name).Create(t.Context(), target, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	maps := apiServer(t).String() + "/api/v1/namespaces/" + s.Name + "/configmaps"
	transport := administrator(t)
	send := func(method, url, media, encoding string, body []byte) (int, []byte) {
		request, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", media)
		if encoding != "" {
			request.Header.Set("Content-Encoding", encoding)
		}
		response, err := transport.RoundTrip(request)
		if err != nil {
			t.Errorf("%s: %v", media, err)
			return 0, nil
		}
		defer response.Body.Close()
		answer, _ := io.ReadAll(response.Body)
		return response.StatusCode, answer
	}
	copies := "[" + strings.TrimSuffix(strings.Repeat(`{"op":"copy","from":"/data","path":"/data/b"},`, 24), ",") + "]"
	var laughs, zipped bytes.Buffer
	laughs.WriteString("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata:\n  a: &a [lol,lol,lol,lol,lol,lol,lol,lol,lol]\n")
	for c := 'b'; c < 'k'; c++ {
		fmt.Fprintf(&laughs, "  %c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c,", c-1), 9), ","))
	}
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write(make([]byte, 256<<20)) // into memory
	_ = z.Close()
	underAttack(t, 500<<20, func() {
		for _, attack := range []struct {
			name, method, url, media, encoding string
			body                               []byte
			code                               int
		}{
			{"a patch of copies", "PATCH", maps + "/target", "application/json-patch+json", "", []byte(copies), 413},
			{"a deep patch", "PATCH", maps + "/target", "application/merge-patch+json", "", []byte(strings.Repeat(`{"a":`, 100000) + "1" + strings.Repeat("}", 100000)), 400},
			{"billion laughs", "POST", maps, "application/yaml", "", laughs.Bytes(), 400},
			{"deep JSON", "POST", maps, "application/json", "", []byte(strings.Repeat("[", 1<<20)), 400},
			{"a gzip bomb", "POST", maps, "application/json", "gzip", zipped.Bytes(), 415},
			{"too large a body", "POST", maps, "application/json", "", bytes.Repeat([]byte(" "), 8<<20), 413},
		} {
			code, answer := send(attack.method, attack.url, attack.media, attack.encoding, attack.body)
			var status metav1.Status
			if err := json.Unmarshal(answer, &status); code != attack.code || err != nil || int(status.Code) != code || status.Message == "" {
				t.Errorf("%s is answered %d %.300s, want a Status of %d", attack.name, code, answer, attack.code)
			}
		}
		var group sync.WaitGroup
		for range 22 {
			group.Go(func() {
				if code, answer := send("PATCH", maps+"/target", "application/json-patch+json", "", []byte(copies)); code != 413 {
					t.Errorf("one of many patches of copies is answered %d %.300s", code, answer)
				}
			})
		}
		group.Wait()
		patch := `[{"op":"copy","from":"/data/a","path":"/data/b"}]`
		if code, answer := send("PATCH", maps+"/target", "application/json-patch+json", "", []byte(patch)); code != 200 {
			t.Errorf("an honest copy is answered %d %.300s", code, answer)
		}
	})
}

// A client announces bodies that never arrive, more than there are seats for requests. Others write as before, nodes renew their leases,
// and each of those requests gets the answer that it took too long, or that there are too many.
func TestBodiesThatNeverCome(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	transport := administrator(t)
	const requests = 700
	codes := make(chan int, requests)
	underAttack(t, 300<<20, func() {
		for range requests {
			body, write := io.Pipe()
			defer write.Close()
			request, err := http.NewRequestWithContext(t.Context(), "POST", apiServer(t).String()+"/api/v1/namespaces/"+s.Name+"/configmaps", body)
			if err != nil {
				t.Fatal(err)
			}
			request.Header = http.Header{"Content-Type": {"application/json"}, "Impersonate-User": {"slow"}, "Impersonate-Group": {"system:masters"}}
			request.ContentLength = 1 << 20
			go func() {
				response, err := transport.RoundTrip(request)
				if err != nil {
					codes <- 0
					return
				}
				response.Body.Close()
				codes <- response.StatusCode
			}()
		}
		ctx, cancel := context.WithTimeout(t.Context(), leaseGap)
		defer cancel()
		for i := range 20 {
			made := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("beside-%d", i)}}
			if _, err := local.API.CoreV1().ConfigMaps(s.Name).Create(ctx, made, metav1.CreateOptions{}); err != nil {
				t.Fatalf("write %d beside them: %v", i, err)
			}
		}
		answers := map[int]int{}
		timeout := time.After(2 * patience)
		for range requests {
			select {
			case code := <-codes:
				answers[code]++
			case <-timeout:
				t.Fatal("requests without bodies are not answered")
			}
		}
		if late := answers[http.StatusRequestTimeout]; late < 200 || late+answers[http.StatusTooManyRequests] != requests {
			t.Errorf("bodies that did not come were answered %v, want 408 and for some 429", answers)
		}
	})
}

// CVE-2023-44487, CVE-2023-39325: twelve thousand idle connections, and streams that are reset as fast as they are made. skepd
// keeps a limited number open, and new clients are served meanwhile.
func TestConnectionsThatSayNothing(t *testing.T) {
	server := apiServer(t)
	var mu sync.Mutex
	var idle []net.Conn
	t.Cleanup(func() {
		for _, conn := range idle {
			conn.Close()
		}
	})
	ask := func(when string) {
		t.Helper()
		client, err := local.Client()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), leaseGap)
		defer cancel()
		if _, err := client.CoreV1().Namespaces().Get(ctx, "default", metav1.GetOptions{}); err != nil {
			t.Errorf("a new client %s: %v", when, err)
		}
	}
	underAttack(t, 500<<20, func() {
		var group sync.WaitGroup
		for range 60 {
			group.Go(func() {
				for range 200 {
					conn, err := net.DialTimeout("tcp", server.Host, patience)
					if err != nil {
						continue // refused or forgotten: as good as held
					}
					mu.Lock()
					idle = append(idle, conn)
					mu.Unlock()
				}
			})
		}
		group.Wait()
		if len(idle) < 11000 {
			t.Errorf("only %d connections were made", len(idle))
		}
		if open := openFiles(t, local.SkepdPID()); open > 10500 {
			t.Errorf("skepd keeps %d files open", open)
		}
		ask("beside idle connections")
		resetRapidly(t)
		ask("after rapid resets")
	})
}

func openFiles(t *testing.T, pid int) int {
	t.Helper()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

// resetRapidly begins watches on one connection and resets them at once, until the server ends it or all are sent.
func resetRapidly(t *testing.T) {
	t.Helper()
	config := administrator(t).TLSClientConfig.Clone()
	config.NextProtos, config.ServerName = []string{"h2"}, apiServer(t).Hostname()
	conn, err := tls.Dial("tcp", apiServer(t).Host, config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetWriteDeadline(time.Now().Add(20 * time.Second)) // the server stops reading when it has to
	go func() { _, _ = io.Copy(io.Discard, conn) }()
	if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
		t.Fatal(err)
	}
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	framer := http2.NewFramer(conn, nil)
	err = framer.WriteSettings()
	for i := 0; i < 30000 && err == nil; i++ {
		block.Reset()
		for _, field := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "x"}, {":path", "/api/v1/pods?watch=1"}} {
			_ = encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}) // into memory
		}
		id := uint32(2*i + 1)
		err = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
		if err == nil {
			err = framer.WriteRSTStream(id, http2.ErrCodeCancel)
		}
	}
	t.Logf("rapid resets ended with %v", err)
}

// Large objects that change without pause, and clients that watch them and read nothing: what is kept of the changes is bounded by
// bytes, and a watch that is read sees the last of them.
func TestWatchesThatNobodyReads(t *testing.T) {
	s := newSpace(t)
	maps := local.API.CoreV1().ConfigMaps(s.Name)
	large, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "large"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	underAttack(t, 500<<20, func() {
		for range 40 {
			config := administrator(t).TLSClientConfig.Clone()
			config.NextProtos, config.ServerName = []string{"http/1.1"}, apiServer(t).Hostname()
			conn, err := tls.Dial("tcp", apiServer(t).Host, config)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := fmt.Fprintf(conn, "GET /api/v1/namespaces/%s/configmaps?watch=1 HTTP/1.1\r\nHost: x\r\n\r\n", s.Name); err != nil {
				t.Fatal(err)
			}
		}
		const changes = 45
		for i := range changes {
			large.ResourceVersion = ""
			large.Data = map[string]string{"n": fmt.Sprint(i), "x": strings.Repeat("x", 900<<10)}
			if large, err = maps.Update(t.Context(), large, metav1.UpdateOptions{}); err != nil {
				t.Fatalf("change %d: %v", i, err)
			}
		}
		w, err := maps.Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=large"})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		event := <-w.ResultChan()
		if cm, ok := event.Object.(*corev1.ConfigMap); !ok || cm.Data["n"] != fmt.Sprint(changes-1) {
			t.Errorf("a watch that is read sees %v", event.Type)
		}
	})
	// The window of changes holds some tens of them, as its bytes allow, and not all.
	metrics, err := local.API.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(metrics), "\n") {
		if strings.HasPrefix(line, "skep_watchcache_window_bytes{") && strings.Contains(line, "configmaps") {
			var held float64
			if _, err := fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &held); err != nil {
				t.Fatal(err)
			}
			if held <= 0 || held > 40<<20 {
				t.Errorf("the window of configmaps holds %.0f bytes", held)
			}
			return
		}
	}
	t.Error("skepd does not say how much the window of configmaps holds")
}

// One user who floods the control plane with events takes no seat from nodes, whose leases are written meanwhile.
func TestEventsOfOneAreBounded(t *testing.T) {
	flooder := mustJoin(t, "flooder", token(t))
	register(t, flooder, "flooder")
	if _, err := flooder.CoordinationV1().Leases("kube-node-lease").Create(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "flooder"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var refused, made int
	var mu sync.Mutex
	underAttack(t, 300<<20, func() {
		var group sync.WaitGroup
		for range 16 {
			group.Go(func() {
				for range 200 {
					err := speak(t.Context(), flooder)
					mu.Lock()
					switch {
					case err == nil:
						made++
					case apierrors.IsTooManyRequests(err):
						refused++
					default:
						t.Errorf("an event: %v", err)
					}
					mu.Unlock()
				}
			})
		}
		group.Wait()
	})
	t.Logf("%d events were made, %d refused", made, refused)
	if made == 0 || refused == 0 {
		t.Errorf("%d events of one node were made and %d refused, want both", made, refused)
	}
}

// speak creates one event, and does not try again.
func speak(ctx context.Context, client kubernetes.Interface) error {
	event := corev1.Event{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Event"}, ObjectMeta: metav1.ObjectMeta{GenerateName: "flood-", Namespace: "default"},
		Source: corev1.EventSource{Host: "flooder"}, InvolvedObject: corev1.ObjectReference{Kind: "Node", Name: "flooder"}, Reason: "Flood"}
	body, err := json.Marshal(event)
	if err != nil {
		return err
	}
	return client.CoreV1().RESTClient().Post().AbsPath("/api/v1/namespaces/default/events").MaxRetries(0).Body(body).SetHeader("Content-Type", "application/json").Do(ctx).Error()
}
