package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/onsi/ginkgo/v2/types"
	"golang.org/x/sys/unix"
)

// stopWithin is how long the suite may take to clean up when it is told to stop.
const stopWithin = 30 * time.Second

// result is the outcome of a test.
type result struct {
	passed  bool
	took    time.Duration
	message string
}

// test runs the selected tests and returns the results by name.
func (s *suite) test(ctx context.Context, o *options, scope scope, out io.Writer) (map[string]result, error) {
	tests, err := conformanceTests()
	if err != nil {
		return nil, err
	}
	narrow, err := regexp.Compile(o.focus)
	if err != nil {
		return nil, fmt.Errorf("-focus: %w", err)
	}
	var wanted, names []string
	for _, test := range scope.selected(tests) {
		if narrow.MatchString(test.Name) {
			wanted, names = append(wanted, test.Name), append(names, regexp.QuoteMeta(test.Name))
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("no test of the areas matches -focus %s", o.focus)
	}
	log, err := os.Create(filepath.Join(s.dir, "suite.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	fmt.Fprintf(out, "conformance: running %d tests, %d side by side; their output goes to %s\n", len(names), o.procs, log.Name())
	report := filepath.Join(s.dir, "report.json")
	if err := os.Remove(report); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	kubeconfig, err := filepath.Abs(o.kubeconfig)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, s.ginkgo, "--procs="+strconv.Itoa(o.procs), "--no-color", "--timeout="+o.timeout.String(),
		"--focus="+strings.Join(names, "|"), "--json-report="+filepath.Base(report), "--output-dir="+s.dir, s.tests, "--",
		"--kubeconfig="+kubeconfig, "--kubectl-path="+s.kubectl, "--provider=skeleton", "--num-nodes=3", "--disable-log-dump", "--prepull-images=false")
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, log, log
	cmd.Cancel, cmd.WaitDelay = func() error { return cmd.Process.Signal(unix.SIGTERM) }, stopWithin
	runErr := cmd.Run()
	results, err := readReport(report)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the suite left no report; see %s", log.Name()), runErr, err)
	}
	for _, name := range wanted {
		if _, ran := results[name]; !ran {
			results[name] = result{message: "the test did not run; see " + log.Name()}
		}
	}
	return results, ctx.Err()
}

func readReport(file string) (map[string]result, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var reports []types.Report
	if err := json.Unmarshal(data, &reports); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	results := map[string]result{}
	for _, report := range reports {
		for _, spec := range report.SpecReports {
			switch {
			case spec.LeafNodeType == types.NodeTypeIt && spec.State.Is(types.SpecStatePassed|types.SpecStateFailureStates):
				results[spec.FullText()] = result{passed: spec.State.Is(types.SpecStatePassed), took: spec.RunTime, message: spec.FailureMessage()}
			case spec.LeafNodeType == types.NodeTypeIt && spec.State.Is(types.SpecStateSkipped) && spec.Failure.Message != "":
				// The test itself found that the cluster lacks something, which is no pass.
				results[spec.FullText()] = result{took: spec.RunTime, message: "skipped by the test: " + spec.Failure.Message}
			case spec.LeafNodeType != types.NodeTypeIt && spec.State.Is(types.SpecStateFailureStates):
				results[spec.LeafNodeType.String()] = result{took: spec.RunTime, message: spec.FailureMessage()}
			}
		}
	}
	return results, nil
}

// printTable prints the outcome of each area, ends with the line of totals, and returns how many failed.
func printTable(out io.Writer, scope scope, tests []conformanceTest, results map[string]result, took time.Duration) int {
	type count struct{ passed, failed, out int }
	counts := make([]count, len(scope.areas))
	seen := map[string]bool{}
	passed, failed := 0, 0
	for _, test := range tests {
		i, ok := scope.of(test)
		if !ok {
			continue
		}
		seen[test.Name] = true
		r, ran := results[test.Name]
		switch {
		case !scope.runs(test):
			counts[i].out++
		case !ran: // -focus left it out
		case r.passed:
			counts[i].passed++
			passed++
		default:
			counts[i].failed++
			failed++
			fmt.Fprintf(out, "\nFAILED %s (%s)\n%s\n", test.Name, r.took.Round(time.Second), indent(r.message))
		}
	}
	for name, r := range results {
		if !seen[name] && !r.passed {
			failed++
			fmt.Fprintf(out, "\nFAILED %s (%s)\n%s\n", name, r.took.Round(time.Second), indent(r.message))
		}
	}
	fmt.Fprintln(out)
	table := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "AREA\tPASSED\tFAILED\tOUT OF SCOPE\tREASON")
	for i, a := range scope.areas {
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%s\n", a.name, counts[i].passed, counts[i].failed, counts[i].out, a.reason)
	}
	if err := table.Flush(); err != nil {
		fmt.Fprintln(out, err)
	}
	fmt.Fprintf(out, "\nTook %s.\n%d passed, %d failed\n", took.Round(time.Second), passed, failed)
	return failed
}

func indent(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ")
}
