package main

import (
	"strings"
	"testing"
	"time"
)

func TestReport(t *testing.T) {
	for _, test := range []struct {
		name, in string
		good     bool
		want     []string
		not      string
	}{
		{
			name: "all pass",
			in: `{"Action":"output","Package":"github.com/skep-io/skep/a","Test":"TestX","Output":"noise\n"}
{"Action":"pass","Package":"github.com/skep-io/skep/a","Test":"TestX"}
{"Action":"pass","Package":"github.com/skep-io/skep/a","Elapsed":1.5}`,
			good: true, want: []string{"ok     a ", "1 passed, 0 failed\n"}, not: "noise",
		},
		{
			name: "a failure shows its output",
			in: `{"Action":"output","Package":"a","Test":"TestX","Output":"got 1, want 2\n"}
{"Action":"fail","Package":"a","Test":"TestX"}
{"Action":"pass","Package":"a","Test":"TestY"}
{"Action":"fail","Package":"a"}`,
			want: []string{"FAILED a TestX", "got 1, want 2", "1 passed, 1 failed\n"},
		},
		{
			name: "a package that does not build counts",
			in: `{"Action":"build-output","ImportPath":"b","Output":"b.go:1: syntax error\n"}
{"Action":"fail","Package":"b","FailedBuild":"b"}`,
			want: []string{"syntax error", "FAILED b as a whole", "0 passed, 1 failed\n"},
		},
		{
			name: "a package without tests says nothing",
			in: `{"Action":"pass","Package":"c","Test":"TestZ"}
{"Action":"pass","Package":"c"}
{"Action":"skip","Package":"d"}`,
			good: true, want: []string{"1 passed, 0 failed\n"}, not: "ok     d",
		},
		{
			name: "progress is passed on",
			in: `{"Action":"output","Package":"a","Test":"TestX","Output":"progress: half way\n"}
{"Action":"pass","Package":"a","Test":"TestX"}
{"Action":"pass","Package":"a"}`,
			good: true, want: []string{" half way\n", "1 passed, 0 failed\n"}, not: "progress",
		},
		{name: "nothing ran", in: ``, want: []string{"no test ran", "0 passed, 0 failed\n"}},
		{name: "not JSON is passed on", in: "go: cannot find module", want: []string{"go: cannot find module"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out strings.Builder
			r := &report{out: &out, begin: time.Now(), output: map[string]map[string][]string{}, counts: map[string][2]int{}}
			r.read(strings.NewReader(test.in))
			if good := r.finish(); good != test.good {
				t.Errorf("good: %v, want %v", good, test.good)
			}
			for _, want := range test.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("output lacks %q:\n%s", want, out.String())
				}
			}
			if test.not != "" && strings.Contains(out.String(), test.not) {
				t.Errorf("output has %q:\n%s", test.not, out.String())
			}
			if strings.Contains(test.want[len(test.want)-1], " failed\n") && !strings.HasSuffix(out.String(), test.want[len(test.want)-1]) {
				t.Errorf("the last line is not the tally:\n%s", out.String())
			}
		})
	}
}
