package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/skep-io/skep/dataplane/kernelfloor"
)

var row = regexp.MustCompile("(?m)^\\| (program|map|helper|kfunc) `([^`]+)` \\| (\\d+)\\.(\\d+) \\| ?(.*) ?\\|$")

// Every feature that an object uses is listed with the kernel that brought it.
func TestEveryFeatureHasAVersion(t *testing.T) {
	page, err := os.ReadFile("../../bpf/README.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, r := range row.FindAllStringSubmatch(string(page), -1) {
		var since [2]int
		fmt.Sscan(r[3], &since[0])
		fmt.Sscan(r[4], &since[1])
		listed[r[1]+" "+r[2]] = true
		newer := since[0] > kernelfloor.Major || (since[0] == kernelfloor.Major && since[1] > kernelfloor.Minor)
		if newer && strings.TrimSpace(r[5]) == "" {
			t.Errorf("%s %s is newer than %d.%d and has no fallback", r[1], r[2], kernelfloor.Major, kernelfloor.Minor)
		}
	}
	used := features(t)
	for feature, object := range used {
		if !listed[feature] {
			t.Errorf("%s uses the %s: bpf/README.md does not say since when", object, feature)
		}
	}
	for feature := range listed {
		if used[feature] == "" {
			t.Errorf("bpf/README.md lists the %s, which no object uses", feature)
		}
	}
}

// features maps what the objects use to one that does.
func features(t *testing.T) map[string]string {
	t.Helper()
	used := map[string]string{}
	for _, pattern := range []string{"../../bpf/*_bpfel.o", "../../bpf/*/*_bpfel.o"} {
		paths, err := filepath.Glob(pattern)
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s: %v, %v", pattern, paths, err)
		}
		for _, path := range paths {
			spec, err := ebpf.LoadCollectionSpec(path)
			if err != nil {
				t.Fatal(err)
			}
			object := filepath.Base(path)
			for _, m := range spec.Maps {
				used["map "+m.Type.String()] = object
			}
			for _, p := range spec.Programs {
				used["program "+strings.TrimRight(p.SectionName, "46")] = object
				for _, call := range calls(p) {
					used[call] = object
				}
			}
		}
	}
	return used
}
