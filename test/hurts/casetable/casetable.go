// Package casetable checks that a page of cases and the tests beside it name each other. It is for tests only.
package casetable

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Check compares README.md of the test's package, which lies in folder of the tree, with its tests: those named exist, those of other
// packages (`folder.TestName`) too, and every test of the package is named, but for the one that checks.
func Check(t *testing.T, folder string) {
	t.Helper()
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	top := strings.Repeat("../", strings.Count(folder, "/")+1)
	listed := map[string]bool{}
	for _, named := range regexp.MustCompile("`(?:([a-z/]+)\\.)?(Test\\w+)`").FindAllStringSubmatch(string(page), -1) {
		in, name := named[1], named[2]
		if in == "" {
			listed[name] = true
			in = folder
		}
		if !tests(t, filepath.Join(top, in))[name] {
			t.Errorf("README.md names %s in %s, which does not exist", name, in)
		}
	}
	for name := range tests(t, ".") {
		if !listed[name] && name != "TestMain" && name != t.Name() {
			t.Errorf("README.md does not say what %s is for", name)
		}
	}
}

func tests(t *testing.T, folder string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(string(text), "\n") {
			if rest, ok := strings.CutPrefix(line, "func Test"); ok {
				name, _, _ := strings.Cut(rest, "(")
				found["Test"+name] = true
			}
		}
	}
	return found
}
