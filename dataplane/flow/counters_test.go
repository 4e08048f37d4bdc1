package flow

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/skep-io/skep/bpf"
)

// Every value of the C enum has a name of its own, and the names are in the README.
func TestEveryReasonHasAName(t *testing.T) {
	names, err := Reasons()
	if err != nil {
		t.Fatal(err)
	}
	if len(names) != int(bpf.UplinkUplinkReasonUPLINK_REASON_COUNT) {
		t.Fatalf("%d names for %d reasons", len(names), bpf.UplinkUplinkReasonUPLINK_REASON_COUNT)
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for i, name := range names {
		if !regexp.MustCompile(`^[a-z_]+$`).MatchString(name) || seen[name] {
			t.Errorf("reason %d is called %q", i, name)
		}
		seen[name] = true
		if !strings.Contains(string(readme), "`"+name+"`") {
			t.Errorf("README.md does not say what %s means", name)
		}
	}
	for reason, want := range map[bpf.UplinkUplinkReason]string{
		bpf.UplinkUplinkReasonUPLINK_NOT_IP:          "not_ip",
		bpf.UplinkUplinkReasonUPLINK_ENCAPSULATED:    "encapsulated",
		bpf.UplinkUplinkReasonUPLINK_FORGED:          "forged",
		bpf.UplinkUplinkReasonUPLINK_EVENT_FLOW_MADE: "event_flow_made",
	} {
		if names[reason] != want {
			t.Errorf("reason %d is called %q, want %q", reason, names[reason], want)
		}
	}
}
