package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

func TestTableShowsWhatWasReported(t *testing.T) {
	f := figures{}
	f.read(hop, "BenchmarkConnect/services=50000-16 \t 20\t 152.25 added-ns\t 1031 added-spread-ns\t 0 ns/op")
	f.read(hop, "PASS")
	var out bytes.Buffer
	f.print(&out)
	for _, want := range []string{"one of 50000 services, again and again", "152.2 ", "1031 ", "not taken"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
}

// A row whose benchmark was removed would stay empty.
func TestRowsAreOfBenchmarksThatAre(t *testing.T) {
	packages, err := withBenchmarks("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range first {
		if !strings.Contains(strings.Join(packages, " ")+" ", "/"+strings.TrimPrefix(name, "./")+" ") {
			t.Errorf("%s has no benchmarks", name)
		}
	}
	for _, r := range rows() {
		if r.unit == "" {
			continue
		}
		function, _, _ := strings.Cut(r.benchmark, "/")
		found := false
		entries, err := os.ReadDir("../../" + r.name)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			if strings.HasSuffix(entry.Name(), "_test.go") {
				content, err := os.ReadFile("../../" + r.name + "/" + entry.Name())
				if err != nil {
					t.Fatal(err)
				}
				found = found || strings.Contains(string(content), "func "+function+"(")
			}
		}
		if !found {
			t.Errorf("%s: %s has no %s", r.what, r.name, function)
		}
	}
}
