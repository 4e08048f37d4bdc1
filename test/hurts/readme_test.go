package hurts

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The table names tests that exist, and every test of the package is in the table.
func TestTableNamesTheTests(t *testing.T) {
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, named := range regexp.MustCompile("`(?:([a-z/]+)\\.)?(Test\\w+)`").FindAllStringSubmatch(string(page), -1) {
		folder, name := named[1], named[2]
		if folder == "" {
			listed[name] = true
			folder = "test/hurts"
		}
		if !hasTest(t, filepath.Join("../..", folder), name) {
			t.Errorf("README.md names %s in %s, which does not exist", name, folder)
		}
	}
	for name := range tests(t, ".") {
		if !listed[name] && name != "TestMain" && name != "TestTableNamesTheTests" {
			t.Errorf("README.md does not say what %s is for", name)
		}
	}
}

func hasTest(t *testing.T, folder, name string) bool { return tests(t, folder)[name] }

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
