package skep

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coredns/coredns/plugin/pkg/dnstest"
	"github.com/coredns/coredns/plugin/pkg/upstream"
	"github.com/coredns/coredns/plugin/test"
	"github.com/miekg/dns"
	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
)

var update = flag.Bool("update", false, "write the answers given into testdata")

// TestAnswers sends each question of testdata/*.txtar to a plugin that has read the
// objects from a real etcd.
func TestAnswers(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no testdata: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			section := map[string]*txtar.File{}
			for i := range archive.Files {
				section[archive.Files[i].Name] = &archive.Files[i]
			}
			etcd := startEtcd(t)
			etcd.put(t, parseObjects(t, section["objects.yaml"].Data)...)
			s := newPlugin(t, etcd)
			var got bytes.Buffer
			for _, q := range strings.Split(strings.TrimSpace(string(section["questions"].Data)), "\n") {
				name, qtype, _ := strings.Cut(q, " ")
				fmt.Fprintf(&got, "%s\n%s", q, ask(t, s, name, dns.StringToType[qtype]))
			}
			want := section["answers"]
			if *update {
				want.Data = got.Bytes()
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got.String() != string(want.Data) {
				t.Errorf("answers differ (run with -update and look at the diff)\ngot:\n%s\nwant:\n%s", got.String(), want.Data)
			}
		})
	}
}

// newPlugin returns a plugin over etcd that has read everything.
func newPlugin(t *testing.T, etcd *testEtcd) *Skep {
	t.Helper()
	s := &Skep{
		Zones: []string{"cluster.local.", "in-addr.arpa.", "ip6.arpa."}, Index: newIndex(),
		upstream: upstream.New(), ttl: defaultTTL, prefix: "/registry", pods: podsInsecure,
		endpoints: []string{etcd.endpoint},
	}
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.shutdown(); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "the plugin is ready", s.Ready)
	return s
}

func ask(t *testing.T, s *Skep, name string, qtype uint16) string {
	t.Helper()
	rec := dnstest.NewRecorder(&test.ResponseWriter{})
	q := new(dns.Msg)
	q.SetQuestion(name, qtype)
	rcode, err := s.ServeDNS(context.Background(), rec, q)
	if err != nil {
		return fmt.Sprintf("  error %s: %v\n", dns.RcodeToString[rcode], err)
	}
	// What cannot be packed cannot be sent.
	if _, err := rec.Msg.Pack(); err != nil {
		t.Fatalf("%s: reply cannot be packed: %v", name, err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "  %s\n", dns.RcodeToString[rec.Msg.Rcode])
	for _, rr := range rec.Msg.Answer {
		fmt.Fprintf(&b, "  %s\n", strings.ReplaceAll(rr.String(), "\t", " "))
	}
	for _, rr := range rec.Msg.Extra {
		fmt.Fprintf(&b, "  + %s\n", strings.ReplaceAll(rr.String(), "\t", " "))
	}
	return b.String()
}

func parseObjects(t *testing.T, yaml []byte) []runtime.Object {
	t.Helper()
	var objs []runtime.Object
	for _, doc := range bytes.Split(yaml, []byte("\n---\n")) {
		obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(doc, nil, nil)
		if err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		objs = append(objs, obj)
	}
	return objs
}

// pathOf is where kube-apiserver keeps objects of a type.
func pathOf(t *testing.T, obj runtime.Object) string {
	t.Helper()
	switch obj.(type) {
	case *corev1.Namespace:
		return "namespaces"
	case *corev1.Service:
		return "services/specs"
	case *corev1.Pod:
		return "pods"
	case *discoveryv1.EndpointSlice:
		return "endpointslices"
	}
	t.Fatalf("no path for %T", obj)
	return ""
}
