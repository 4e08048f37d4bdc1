package floor

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/skep-io/skep/test/floor/plan"
)

// result is the outcome of a test binary.
type result struct {
	folder  string
	verdict string // "ok", how it failed, or "" while it runs
	lines   []string
	tests   []*test
}

// test is a test of the top level, with its subtests' output.
type test struct {
	name    string
	verdict string // PASS, FAIL, SKIP or "" if it never ended
	took    string
	lines   []string
}

// results reads the guest's answers.
type results struct {
	kernel  string
	runs    []*result
	broken  string
	done    bool
	current *test
	// ended is called for each binary.
	ended func(*result)
}

func (r *results) line(text string) {
	var run *result
	if n := len(r.runs); n > 0 {
		run = r.runs[n-1]
	}
	word := func(prefix string) (string, bool) { return strings.CutPrefix(text, prefix) }
	if rest, is := word(plan.Output); is && run != nil {
		r.output(run, rest)
	} else if rest, is := word(plan.Kernel); is {
		r.kernel = rest
	} else if rest, is := word(plan.Began); is {
		r.runs = append(r.runs, &result{folder: rest})
		r.current = nil
	} else if rest, is := word(plan.Ended); is && run != nil {
		run.verdict = rest
		r.ended(run)
	} else if rest, is := word(plan.Broken); is {
		r.broken = rest
	} else if text == plan.Done {
		r.done = true
	} else {
		r.broken = fmt.Sprintf("the guest says %q, which is no answer", text)
	}
}

// framing is a line of -test.v=test2json, which marks its own lines with 0x16.
var framing = regexp.MustCompile(`\x16 *(?:===|---) +(RUN|NAME|PAUSE|CONT|PASS|FAIL|SKIP):? *(\S*)(?: \((.*)\))?$`)

func (r *results) output(run *result, text string) {
	run.lines = append(run.lines, text)
	found := framing.FindStringSubmatch(text)
	if found == nil {
		if r.current != nil {
			r.current.lines = append(r.current.lines, text)
		}
		return
	}
	word, name, took := found[1], found[2], found[3]
	if name == "" { // no test's lines follow
		r.current = nil
		return
	}
	top, _, sub := strings.Cut(name, "/")
	r.current = run.test(top)
	switch word {
	case "PASS", "FAIL", "SKIP":
		if !sub {
			r.current.verdict, r.current.took = word, took
		} else if word != "PASS" {
			r.current.lines = append(r.current.lines, strings.TrimLeft(text, "\x16"))
		}
	}
}

// end says how the test ended.
func (t *test) end() string {
	if t.verdict == "" {
		return "did not end"
	}
	return t.verdict + " " + t.took
}

func (r *result) test(name string) *test {
	for _, t := range r.tests {
		if t.name == name {
			return t
		}
	}
	t := &test{name: name}
	r.tests = append(r.tests, t)
	return t
}
