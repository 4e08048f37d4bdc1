package main

import (
	"testing"

	skepv1 "github.com/skep-io/skep/api/v1"
)

func TestProgrammingOverNodes(t *testing.T) {
	p := programming{}
	if p.String() != "" {
		t.Errorf("%q for nothing", p.String())
	}
	p.add([]skepv1.Bucket{{Seconds: 0.01, Count: 60}, {Seconds: 0.05, Count: 20}})
	p.add([]skepv1.Bucket{{Seconds: 0.05, Count: 19}, {Count: 1}})
	want := "\nChanges of endpoints reached a node's maps within 0.01 s (half of them), within 0.05 s (99%); 100 were measured.\n"
	if p.String() != want {
		t.Errorf("%q, want %q", p.String(), want)
	}
}
