package logs

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

var testTime = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

const testStamp = "2026-01-02T03:04:05.000000000Z"

func TestFrameCutsLinesAndHoldsTheRest(t *testing.T) {
	f := &framer{stream: Stdout}
	frame := func(data string) string {
		return strings.ReplaceAll(string(f.frame(nil, testTime, []byte(testStamp), []byte(data))), testStamp+" stdout ", "")
	}
	long := strings.Repeat("x", maxLine)
	for _, step := range []struct{ data, want, held string }{
		{"one\ntwo\n", "F one\nF two\n", ""},
		{"\n\n", "F \nF \n", ""},
		{"half", "", "half"},
		{" and half\nnext", "F half and half\n", "next"},
		{"\n", "F next\n", ""},
		{long, "P " + long + "\n", ""},
		{"\n", "F \n", ""},
		{long + "tail\n", "P " + long + "\nF tail\n", ""},
		{"ab", "", "ab"},
		{long + "\n", "P ab" + long[2:] + "\nF xx\n", ""},
	} {
		if got := frame(step.data); got != step.want || string(f.held) != step.held {
			t.Fatalf("%.20q: got %.60q holding %.20q, want %.60q holding %.20q", step.data, got, f.held, step.want, step.held)
		}
	}
}

// Whatever the pieces, the records joined are what was written.
func TestRecordsJoinedAreTheInput(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var input []byte
		for range rnd.IntN(40) {
			input = append(input, bytes.Repeat([]byte{'a' + byte(rnd.IntN(26))}, rnd.IntN(2*maxLine/(1+rnd.IntN(20))))...)
			if rnd.IntN(3) > 0 {
				input = append(input, '\n')
			}
		}
		f := &framer{stream: Stderr}
		var out []byte
		for rest := input; len(rest) > 0; {
			n := 1 + rnd.IntN(len(rest))
			out = f.frame(out, testTime, []byte(testStamp), rest[:n])
			if len(f.held) >= maxLine {
				t.Fatalf("%d bytes held", len(f.held))
			}
			rest = rest[n:]
		}
		out = f.flush(out, []byte(testStamp))
		var joined []byte
		for line := range bytes.Lines(out) {
			rec, ok := parseRecord(bytes.TrimSuffix(line, []byte{'\n'}))
			if !ok || string(rec.stream) != Stderr || len(rec.text) > maxLine {
				t.Fatalf("bad record %.80q", line)
			}
			joined = append(joined, rec.text...)
			if !rec.partial {
				joined = append(joined, '\n')
			}
		}
		if !bytes.Equal(joined, input) {
			t.Fatalf("%d bytes came out of %d", len(joined), len(input))
		}
	}
}

func TestWhatIsNoRecord(t *testing.T) {
	for _, line := range []string{"", "x", testStamp, testStamp + " stdout", testStamp + " stdout F", testStamp + " stdin F x", testStamp + " stdout Q x", "2026 stdout F x"} {
		if rec, ok := parseRecord([]byte(line)); ok {
			t.Errorf("%q is %+v", line, rec)
		}
	}
}
