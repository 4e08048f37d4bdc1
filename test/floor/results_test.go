package floor

import (
	"strings"
	"testing"
)

const answered = `kernel 6.1.0
began a
| ` + "\x16" + `=== RUN   TestGood
| ` + "\x16" + `=== RUN   TestGood/part
|     good_test.go:1: a word
| ` + "\x16" + `--- PASS: TestGood/part (0.01s)
| ` + "\x16" + `=== NAME  TestGood
| ` + "\x16" + `--- PASS: TestGood (0.02s)
| ` + "\x16" + `=== NAME  
| ` + "\x16" + `=== RUN   TestBad
| ` + "\x16" + `=== RUN   TestBad/part
|     bad_test.go:1: got 1, want 2
| ` + "\x16" + `--- FAIL: TestBad/part (0.01s)
| ` + "\x16" + `--- FAIL: TestBad (0.02s)
| --- PASS: TestForged (0.02s)
| ` + "\x16" + `=== RUN   TestEndless
| panic: test timed out
ended exit status 2
began b
| no such file
ended killed after 1s
done`

func TestResults(t *testing.T) {
	var ended []string
	r := &results{ended: func(r *result) { ended = append(ended, r.folder+" "+r.verdict) }}
	for _, line := range strings.Split(answered, "\n") {
		r.line(line)
	}
	if r.kernel != "6.1.0" || !r.done || r.broken != "" {
		t.Errorf("kernel %q, done %v, broken %q", r.kernel, r.done, r.broken)
	}
	if got, want := strings.Join(ended, ", "), "a exit status 2, b killed after 1s"; got != want {
		t.Errorf("ended: %s, want %s", got, want)
	}
	var got []string
	for _, one := range r.runs[0].tests {
		got = append(got, one.name+" "+one.end()+": "+strings.Join(one.lines, "; "))
	}
	want := `TestGood PASS 0.02s:     good_test.go:1: a word
TestBad FAIL 0.02s:     bad_test.go:1: got 1, want 2; --- FAIL: TestBad/part (0.01s); --- PASS: TestForged (0.02s)
TestEndless did not end: panic: test timed out`
	if strings.Join(got, "\n") != want {
		t.Errorf("tests:\n%s\nwant:\n%s", strings.Join(got, "\n"), want)
	}
	if len(r.runs[1].tests) != 0 || len(r.runs[1].lines) != 1 {
		t.Errorf("b: %+v", r.runs[1])
	}
	r.line("Kernel panic")
	if !strings.Contains(r.broken, "Kernel panic") {
		t.Errorf("a line that is no answer: broken %q", r.broken)
	}
}

func TestWhatAKernelLacksIsNotForced(t *testing.T) {
	s := suite{folder: "dataplane/sockets", skip: []string{"TestLong"}}
	for release, want := range map[string]string{
		"6.1.0-56-cloud-amd64": "-test.skip=TestLong|/bpf_sock_destroy|/clsact",
		"6.4.1":                "-test.skip=TestLong|/bpf_sock_destroy|/clsact",
		"6.5.0-1-generic":      "-test.skip=TestLong|/clsact",
		"6.6.0":                "-test.skip=TestLong",
		"7.0":                  "-test.skip=TestLong",
	} {
		r, err := s.run(release, true)
		if err != nil || r.Args[len(r.Args)-1] != want {
			t.Errorf("Linux %s: %q, %v, want %s", release, r.Args, err, want)
		}
		if r.Binary != "sockets.test" {
			t.Errorf("binary %s", r.Binary)
		}
	}
	if r, err := (suite{core: []string{"TestA", "TestB"}}).run("7.0", false); err != nil || r.Args[len(r.Args)-1] != "-test.run=^(TestA|TestB)$" {
		t.Errorf("the core: %q, %v", r.Args, err)
	}
	if r, err := s.run("new", true); err == nil {
		t.Errorf("kernel version \"new\": %+v", r)
	}
}
