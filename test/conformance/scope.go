package main

import (
	_ "embed"
	"errors"
	"fmt"
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

// scope says for each conformance test whether it is run. The first area that fits counts.
type scope []area

// conformanceTest is a test as Kubernetes' list of them names it.
type conformanceTest struct {
	Name string `json:"codename"`
	File string `json:"file"`
}

func readScope() (scope, error) {
	var s scope
	for number, line := range strings.Split(scopeText, "\n") {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Split(line, "|")
		for i := range fields {
			fields[i] = strings.TrimSpace(fields[i])
		}
		a := area{run: fields[0] == "run"}
		switch {
		case a.run && len(fields) == 3:
		case fields[0] == "out" && len(fields) == 4 && fields[3] != "":
			a.reason = fields[3]
		default:
			return nil, fmt.Errorf("scope.txt line %d: want 'run | FILE | AREA' or 'out | FILE | AREA | REASON', have %q", number+1, line)
		}
		a.path, a.name = fields[1], fields[2]
		s = append(s, a)
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
	for i, a := range s {
		if file == a.path || strings.HasSuffix(a.path, "/") && strings.HasPrefix(file, a.path) {
			return i, true
		}
	}
	return 0, false
}

// covers refuses a scope that leaves a test without a verdict, or has an area without tests: a new version of the suite has
// to be looked at.
func (s scope) covers(tests []conformanceTest) error {
	var problems []error
	used := make([]bool, len(s))
	for _, test := range tests {
		i, ok := s.of(test)
		if !ok {
			problems = append(problems, fmt.Errorf("scope.txt says nothing about %s (%s)", test.File, test.Name))
			continue
		}
		used[i] = true
	}
	for i, a := range s {
		if !used[i] {
			problems = append(problems, fmt.Errorf("scope.txt: no conformance test lies in %s", a.path))
		}
	}
	return errors.Join(problems...)
}

// selected are the tests that are to be run.
func (s scope) selected(tests []conformanceTest) (selected []conformanceTest) {
	for _, test := range tests {
		if i, ok := s.of(test); ok && s[i].run {
			selected = append(selected, test)
		}
	}
	return selected
}
