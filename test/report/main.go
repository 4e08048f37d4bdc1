// Command report reads `go test -json` and prints the outcome: a line per package
// as it ends, the output of what failed, and at the very end one line,
//
//	N passed, N failed
//
// of tests and subtests. Lines that begin with "progress: " are passed on at once:
// a test that takes minutes says with them where it is. It exits 1 if anything failed or nothing ran.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"time"
)

// event is a line of test2json's output.
type event struct {
	Action, Package, Test, Output, ImportPath, FailedBuild string
	Elapsed                                                float64
}

// report counts, and keeps the output of what has not ended yet.
type report struct {
	out            io.Writer
	begin          time.Time
	passed, failed int
	skipped        []string
	broken         []string
	// output by package and test; "" is the package's own.
	output map[string]map[string][]string
	counts map[string][2]int
}

func main() {
	r := &report{out: os.Stdout, begin: time.Now(), output: map[string]map[string][]string{}, counts: map[string][2]int{}}
	r.read(os.Stdin)
	if !r.finish() {
		os.Exit(1)
	}
}

func (r *report) read(in io.Reader) {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 1<<20), 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			// What the go command says outside of tests, as on a missing module.
			fmt.Fprintln(r.out, lines.Text())
			continue
		}
		r.handle(e)
	}
	if err := lines.Err(); err != nil {
		r.broken = append(r.broken, "reading the tests' output: "+err.Error())
	}
}

func (r *report) handle(e event) {
	switch e.Action {
	case "build-output":
		fmt.Fprint(r.out, e.Output)
	case "output":
		if rest, is := strings.CutPrefix(e.Output, "progress: "); is {
			fmt.Fprintf(r.out, "       %s", rest)
			return
		}
		if r.output[e.Package] == nil {
			r.output[e.Package] = map[string][]string{}
		}
		r.output[e.Package][e.Test] = append(r.output[e.Package][e.Test], e.Output)
	case "pass", "fail", "skip":
		if e.Test != "" {
			r.endTest(e)
		} else {
			r.endPackage(e)
		}
	}
}

func (r *report) endTest(e event) {
	count := r.counts[e.Package]
	switch e.Action {
	case "pass":
		r.passed++
		count[0]++
		delete(r.output[e.Package], e.Test)
	case "fail":
		r.failed++
		count[1]++
		fmt.Fprintf(r.out, "FAILED %s %s (%.1fs)\n", short(e.Package), e.Test, e.Elapsed)
	case "skip":
		r.skipped = append(r.skipped, short(e.Package)+" "+e.Test)
	}
	r.counts[e.Package] = count
}

// endPackage prints what the failed tests of the package said. A package that
// fails without a failed test did not build, panicked or ran out of time: that
// counts as one.
func (r *report) endPackage(e event) {
	count := r.counts[e.Package]
	verdict := "ok    "
	if e.Action == "fail" {
		verdict = "FAILED"
		if count[1] == 0 {
			r.failed++
			count[1]++
			r.broken = append(r.broken, short(e.Package)+" as a whole")
		}
		r.printOutput(e.Package)
	}
	delete(r.output, e.Package)
	if count[0]+count[1] == 0 {
		return // no tests in it
	}
	fmt.Fprintf(r.out, "%s %-48s %4d passed %3d failed %7.1fs  (%s)\n", verdict, short(e.Package), count[0], count[1],
		e.Elapsed, time.Since(r.begin).Round(time.Second))
}

func (r *report) printOutput(pkg string) {
	tests := make([]string, 0, len(r.output[pkg]))
	for test := range r.output[pkg] {
		tests = append(tests, test)
	}
	sort.Strings(tests)
	for _, test := range tests {
		for _, line := range r.output[pkg][test] {
			if !strings.HasPrefix(strings.TrimSpace(line), "=== ") {
				fmt.Fprint(r.out, "    ", line)
			}
		}
	}
}

func (r *report) finish() (good bool) {
	for _, what := range r.broken {
		fmt.Fprintln(r.out, "FAILED", what)
	}
	for _, what := range r.skipped {
		fmt.Fprintln(r.out, "skipped", what)
	}
	if r.passed+r.failed == 0 {
		fmt.Fprintln(r.out, "no test ran")
	}
	fmt.Fprintf(r.out, "%d passed, %d failed\n", r.passed, r.failed)
	return r.failed == 0 && r.passed > 0
}

func short(pkg string) string { return strings.TrimPrefix(pkg, "github.com/skep-io/skep/") }
