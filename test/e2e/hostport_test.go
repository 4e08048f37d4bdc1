package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/skep-io/skep/test/clustertest"
)

// A port at an address of the pod's node leads to the pod. One at an address of another node is none: who asks there reaches
// that node, the pod's events say so, and verification agrees.
func TestHostPortAtAnotherNodesAddress(t *testing.T) {
	s := newSpace(t)
	var addrs []string
	for _, name := range []string{"node1", "node2"} {
		n, err := local.Node(name)
		if err != nil {
			t.Fatal(err)
		}
		addrs = append(addrs, n.Addr.String())
	}
	const pod = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"%s"},"spec":{"nodeName":"node1","terminationGracePeriodSeconds":1,
		"containers":[{"name":"c","image":"skep/echo:dev","imagePullPolicy":"IfNotPresent",%s"ports":[%s]}]}}`
	ports := fmt.Sprintf(`{"containerPort":7000,"hostPort":31701,"hostIP":"%s"},{"containerPort":7000,"hostPort":31702,"hostIP":"%s"}`, addrs[0], addrs[1])
	s.SkepIn(fmt.Sprintf(pod, "server", "", ports), "create", "-f", "-")
	s.SkepIn(fmt.Sprintf(pod, "client", `"command":["/echo","idle"],`, ""), "create", "-f", "-")
	s.Await("both pods", clustertest.AllReady(2))
	s.Skep("dataplane", "verify")
	s.WantIn(s.ask("--count", "1", "--port", "31701", addrs[0]), "server")
	out := s.Refused("", "exec", "client", "--", "/echo", "client", "--count", "1", "--port", "31702", addrs[1])
	s.WantIn(out, "connection refused")
	said := s.Skep("describe", "pod", "server")
	for deadline := time.Now().Add(patience); !strings.Contains(said, addrs[1]+":31702/TCP is ignored: this node has no such address"); {
		if time.Now().After(deadline) {
			t.Fatalf("the pod's events say nothing of it:\n%s", said)
		}
		said = s.Skep("describe", "pod", "server")
	}
	if strings.Contains(said, ":31701/TCP is ignored") {
		t.Errorf("the pod's events are wrong about the node's own address:\n%s", said)
	}
}
