package main

import (
	"strings"
	"testing"
)

// Every conformance test of the pinned suite has a verdict, and every verdict a test.
func TestScopeCoversTheSuite(t *testing.T) {
	s, err := readScope()
	if err != nil {
		t.Fatal(err)
	}
	tests, err := conformanceTests()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.covers(tests); err != nil {
		t.Error(err)
	}
	if n := len(s.selected(tests)); n < 34 {
		t.Errorf("%d tests are selected; the areas of services alone have 34", n)
	}
}

func TestScopeNamesWhatItMisses(t *testing.T) {
	s := scope{
		areas: []area{{run: true, path: "network/service.go", name: "Services"}, {path: "storage/", name: "Storage", reason: "none"}},
		not:   map[string]string{"gone": "no longer in the suite"},
	}
	err := s.covers([]conformanceTest{{Name: "a", File: "test/e2e/network/service.go"}, {Name: "b", File: "test/e2e/apps/rc.go"}})
	for _, want := range []string{"says nothing about test/e2e/apps/rc.go", "no conformance test lies in storage/", `has a conformance test "gone"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not tell: %s", err, want)
		}
	}
}

func TestTableCountsWhatDidNotPass(t *testing.T) {
	s := scope{
		areas: []area{{run: true, path: "a/", name: "A"}, {path: "b/", name: "B", reason: "there is no B"}},
		not:   map[string]string{"four": "fails"},
	}
	tests := []conformanceTest{{"one", "test/e2e/a/x.go"}, {"two", "test/e2e/a/y.go"}, {"three", "test/e2e/b/z.go"}, {"four", "test/e2e/a/x.go"}}
	results := map[string]result{"one": {passed: true}, "two": {message: "boom"}, "BeforeSuite": {message: "no nodes"}}
	var out strings.Builder
	if failed := printTable(&out, s, tests, results, 0); failed != 2 {
		t.Errorf("%d failed, want the test and the suite's own step", failed)
	}
	for _, want := range []string{"FAILED two", "boom", "FAILED BeforeSuite", "there is no B", "\n1 passed, 2 failed\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
}
