package sockets

import (
	"testing"

	"github.com/cilium/ebpf/btf"

	"github.com/skep-io/skep/bpf"
)

// Every verdict of the C code has a field in Result, each but one its own.
func TestEveryVerdictIsCounted(t *testing.T) {
	spec, err := bpf.LoadSockets()
	if err != nil {
		t.Fatal(err)
	}
	var enum *btf.Enum
	if err := spec.Types.TypeByName("verdict", &enum); err != nil {
		t.Fatal(err)
	}
	seen := map[Result]string{}
	for _, value := range enum.Values {
		var r Result
		r.count(bpf.SocketsVerdict(value.Value), 1)
		switch value.Name {
		case "VERDICT_OTHER", "VERDICT_COUNT":
			if r != (Result{}) {
				t.Errorf("%s is counted as %+v", value.Name, r)
			}
			continue
		case "VERDICT_OUTSIDE": // a kind of direct
			continue
		}
		if r == (Result{}) || seen[r] != "" {
			t.Errorf("%s is counted as %+v, as is %q", value.Name, r, seen[r])
		}
		seen[r] = value.Name
	}
	if len(seen) != 5 {
		t.Errorf("%d verdicts are told apart, want 5", len(seen))
	}
}
