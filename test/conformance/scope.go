package main

import (
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"strings"

	"k8s.io/kubernetes/test/conformance/testdata"
	"sigs.k8s.io/yaml"
)

//go:embed scope.txt
var scopeText string

// area is a part of the conformance tests: those of one source file, or of one folder.
type area struct {
	run    bool
	path   string // below test/e2e; a folder ends in a slash
	name   string
	reason string // why it is not run
}

// scope says for each conformance test whether it is run. The first area that fits counts, and not the tests that are named.
type scope struct {
	areas []area
	not   map[string]string // test of an area that is run -> why it is not
}

// conformanceTest is a test as Kubernetes' list of them names it.
type conformanceTest struct {
	Name string `json:"codename"`
	File string `json:"file"`
}

func readScope() (scope, error) {
	s := scope{not: map[string]string{}}
	for number, line := range strings.Split(scopeText, "\n") {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Split(line, "|")
		for i := range fields {
			fields[i] = strings.TrimSpace(fields[i])
		}
		switch kind := fields[0]; {
		case kind == "run" && len(fields) == 3:
			s.areas = append(s.areas, area{run: true, path: fields[1], name: fields[2]})
		case kind == "out" && len(fields) == 4 && fields[3] != "":
			s.areas = append(s.areas, area{path: fields[1], name: fields[2], reason: fields[3]})
		case kind == "not" && len(fields) == 3 && fields[2] != "":
			s.not[fields[1]] = fields[2]
		default:
			return scope{}, fmt.Errorf("scope.txt line %d: want 'run | FILE | AREA', 'out | FILE | AREA | REASON' or 'not | TEST | REASON', have %q", number+1, line)
		}
	}
	return s, nil
}

// conformanceTests reads the list that comes with the suite.
func conformanceTests() ([]conformanceTest, error) {
	list := testdata.GetConformanceTestdataFS()
	data, err := list.EmbeddedFS.ReadFile("conformance.yaml")
	if err != nil {
		return nil, err
	}
	var tests []conformanceTest
	if err := yaml.Unmarshal(data, &tests); err != nil {
		return nil, fmt.Errorf("the suite's list of conformance tests: %w", err)
	}
	return tests, nil
}

// of returns the index of the area that a test belongs to.
func (s scope) of(test conformanceTest) (int, bool) {
	file := strings.TrimPrefix(test.File, "test/e2e/")
	for i, a := range s.areas {
		if file == a.path || strings.HasSuffix(a.path, "/") && strings.HasPrefix(file, a.path) {
			return i, true
		}
	}
	return 0, false
}

// covers refuses a scope that leaves a test without a verdict, or has a verdict without tests: a new version of the suite has
// to be looked at.
func (s scope) covers(tests []conformanceTest) error {
	var problems []error
	used := make([]bool, len(s.areas))
	named := maps.Clone(s.not)
	for _, test := range tests {
		i, ok := s.of(test)
		if !ok {
			problems = append(problems, fmt.Errorf("scope.txt says nothing about %s (%s)", test.File, test.Name))
			continue
		}
		used[i] = true
		if s.areas[i].run {
			delete(named, strings.TrimSpace(test.Name))
		}
	}
	for i, a := range s.areas {
		if !used[i] {
			problems = append(problems, fmt.Errorf("scope.txt: no conformance test lies in %s", a.path))
		}
	}
	for name := range named {
		problems = append(problems, fmt.Errorf("scope.txt: no area that is run has a conformance test %q", name))
	}
	return errors.Join(problems...)
}

// runs says whether a test is run.
func (s scope) runs(test conformanceTest) bool {
	i, ok := s.of(test)
	_, not := s.not[strings.TrimSpace(test.Name)]
	return ok && s.areas[i].run && !not
}

// selected are the tests that are to be run.
func (s scope) selected(tests []conformanceTest) (selected []conformanceTest) {
	for _, test := range tests {
		if s.runs(test) {
			selected = append(selected, test)
		}
	}
	return selected
}
