package floor

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

var (
	onlyFolder = flag.String("folder", "", "regular expression: run the tests of these packages only, as dataplane/flow")
	onlyTests  = flag.String("tests", "", "regular expression: run these tests only")
	whole      = flag.Bool("whole", false, "run all tests that can run there, not only the core; half an hour without KVM")
)

// The data plane's own tests, on the kernel that the distribution has today.
func TestDataPlaneOnTheDistributionsKernel(t *testing.T) {
	cache, err := filepath.Abs(filepath.Join(root, "bin", "floor"))
	if err != nil {
		t.Fatal(err)
	}
	k, err := fetchKernel(cache, progress)
	if err != nil {
		t.Fatal(err)
	}
	wanted := wantedSuites(t)
	var more []string
	if *onlyTests != "" {
		more = []string{"-test.run=" + *onlyTests}
	}
	initrd := filepath.Join(t.TempDir(), "initrd")
	if err := buildImage(initrd, k, wanted, *whole || *onlyTests != "", more); err != nil {
		t.Fatal(err)
	}
	limit := 15 * time.Minute
	if *whole {
		limit = time.Hour
	}
	m := &machine{kernel: k, initrd: initrd, console: filepath.Join(cache, "console.log"), limit: limit}
	got, err := boot(t.Context(), m, filepath.Join(cache, "answers.log"))
	if err != nil {
		t.Error(err)
	}
	if got.broken != "" {
		t.Error("the guest cannot go on: ", got.broken)
	}
	if got.kernel != k.release {
		t.Errorf("kernel %q ran, want %q", got.kernel, k.release)
	}
	if err == nil && !got.done {
		t.Error("the guest did not come to the end of its plan", m.lastWords())
	}
	for _, s := range wanted {
		t.Run(s.folder, func(t *testing.T) { got.report(t, s.folder) })
	}
}

func wantedSuites(t *testing.T) (some []suite) {
	t.Helper()
	pattern, err := regexp.Compile(*onlyFolder)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range suites {
		if pattern.MatchString(s.folder) {
			some = append(some, s)
		}
	}
	if len(some) == 0 {
		t.Fatalf("-folder=%s: no such package", *onlyFolder)
	}
	return some
}

// boot runs the machine with the first accelerator that brings it up, and keeps
// a copy of what the guest answers.
func boot(ctx context.Context, m *machine, copyTo string) (*results, error) {
	answers, err := os.Create(copyTo)
	if err != nil {
		return &results{}, err
	}
	defer answers.Close()
	var failed []error
	for _, a := range accelerators() {
		began := time.Now()
		got := &results{ended: func(r *result) {
			progress("floor: %-18s %3d tests: %s (%s)", r.folder, len(r.tests), r.verdict, time.Since(began).Round(time.Second))
			began = time.Now()
		}}
		progress("floor: booting Linux %s with %s", m.kernel.release, a.name)
		err := m.run(ctx, a, func(line string) {
			fmt.Fprintln(answers, line)
			got.line(line)
		})
		if !errors.Is(err, errSilent) {
			return got, err
		}
		failed = append(failed, err)
	}
	return &results{}, errors.Join(failed...)
}

// report makes a subtest of each of a binary's tests.
func (r *results) report(t *testing.T, folder string) {
	for _, run := range r.runs {
		if run.folder != folder {
			continue
		}
		for _, one := range run.tests {
			t.Run(one.name, func(t *testing.T) {
				if one.verdict != "PASS" {
					t.Errorf("on Linux %s: %s\n%s", r.kernel, one.end(), strings.Join(one.lines, "\n"))
				} else {
					t.Logf("on Linux %s: %s\n%s", r.kernel, one.end(), strings.Join(one.lines, "\n"))
				}
			})
		}
		if len(run.tests) == 0 || (run.verdict != "ok" && !t.Failed()) {
			t.Errorf("on Linux %s: %q\n%s", r.kernel, run.verdict, strings.Join(run.lines, "\n"))
		}
		return
	}
	t.Error("did not run")
}

// progress is passed on at once by test/report.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "progress: "+format+"\n", args...)
}
