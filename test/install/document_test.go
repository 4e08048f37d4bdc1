package install

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

const documentPath = "../../docs/install.md"

// step is a fenced block of commands. Its first line is, for example,
//
//	```sh on=server
//
// where on says on which hosts to run it: server, node (each of them), leaving
// (the one that is removed) or admin (from where the cluster is used). A block
// that only sets variables has the word "values": the reader fills them in, and
// so does the test. One that the test does not run says so with skip= and one of skips.
type step struct {
	section  string // the heading above it
	line     int
	on       string
	values   []string // names of the variables
	skip     string
	commands string
}

// skips are the reasons not to run a block, and what is done in its place.
var skips = map[string]string{
	"build":    "whoever runs the tests has built the programs: their presence is checked",
	"copy":     "the hosts share the machine's files: links take the place of copies",
	"packages": "changes the machine and needs its mirrors: the block after it fails if the programs are missing",
}

func (s step) String() string {
	return fmt.Sprintf("install.md:%d (%s, on %s)", s.line, s.section, s.on)
}

func parseDocument(text string) ([]step, error) {
	var steps []step
	var open *step
	section, other := "", false // other: inside a block that holds no commands
	for i, line := range strings.Split(text, "\n") {
		fence, isFence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case isFence && open != nil:
			if err := open.check(); err != nil {
				return nil, err
			}
			steps, open = append(steps, *open), nil
		case isFence && other:
			other = false
		case isFence:
			words := strings.Fields(fence)
			if len(words) == 0 || words[0] != "sh" {
				other = true
				continue
			}
			open = &step{section: section, line: i + 1}
			if err := open.describe(words[1:]); err != nil {
				return nil, err
			}
		case open != nil:
			open.commands += line + "\n"
		case !other && strings.HasPrefix(line, "#"):
			section = strings.TrimSpace(strings.TrimLeft(line, "#"))
		}
	}
	if open != nil || other {
		return nil, fmt.Errorf("install.md: its last block is not closed")
	}
	return steps, nil
}

func (s *step) describe(words []string) error {
	for _, word := range words {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "on":
			s.on = value
		case "values":
			s.values = []string{}
		case "skip":
			if skips[value] == "" {
				return fmt.Errorf("%s: %q is no known reason to skip", s, value)
			}
			s.skip = value
		default:
			return fmt.Errorf("%s: %q is none of on=, values, skip=", s, word)
		}
	}
	if !slices.Contains([]string{"server", "node", "leaving", "admin"}, s.on) {
		return fmt.Errorf("%s: a block of commands must say where it runs: on=server, node, leaving or admin", s)
	}
	return nil
}

func (s *step) check() error {
	if strings.TrimSpace(s.commands) == "" {
		return fmt.Errorf("%s: is empty", s)
	}
	if s.values == nil {
		return nil
	}
	for _, line := range strings.Split(strings.TrimSpace(s.commands), "\n") {
		name, _, ok := strings.Cut(line, "=")
		if !ok || strings.ContainsAny(name, " \t$") {
			return fmt.Errorf("%s: a block of values holds lines of NAME=VALUE only: %s", s, line)
		}
		s.values = append(s.values, name)
	}
	return nil
}

func readDocument(t *testing.T) []step {
	t.Helper()
	text, err := os.ReadFile(documentPath)
	if err != nil {
		t.Fatal(err)
	}
	steps, err := parseDocument(string(text))
	if err != nil {
		t.Fatal(err)
	}
	return steps
}

func TestParseDocument(t *testing.T) {
	steps, err := parseDocument("# A\n```sh on=server\necho 1\n# not a heading\necho 2\n```\n## B\n```toml\nx = 1\n```\n```sh on=node values\nA=1   # yours\nB=2\n```\n```sh on=node skip=packages\nget\n```\n")
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintf("%+v", steps)
	var want []step
	want = append(want,
		step{section: "A", line: 2, on: "server", commands: "echo 1\n# not a heading\necho 2\n"},
		step{section: "B", line: 11, on: "node", values: []string{"A", "B"}, commands: "A=1   # yours\nB=2\n"},
		step{section: "B", line: 15, on: "node", skip: "packages", commands: "get\n"})
	if fmt.Sprintf("%+v", want) != got {
		t.Errorf("got  %s\nwant %+v", got, want)
	}
	for _, bad := range []string{
		"```sh\necho\n```\n",                    // nobody knows where
		"```sh on=moon\necho\n```\n",            // no such host
		"```sh on=server maybe\necho\n```\n",    // no such word
		"```sh on=server skip=x\necho\n```\n",   // no good reason
		"```sh on=server\n```\n",                // nothing to do
		"```sh on=node values\nrm -r x\n```\n",  // not a value
		"```sh on=server\necho\n",               // not closed
		"```sh on=node values\nexport A=1\n```", // not just a name
	} {
		if _, err := parseDocument(bad); err == nil {
			t.Errorf("accepted: %q", bad)
		}
	}
}

func TestParseUnit(t *testing.T) {
	u, err := parseUnit("x.service", "[Service]\nType=notify\nExecStart=/bin/x --a $FLAGS\nKillMode=process\nRestart=always\nRestartSec=1\n")
	if err != nil {
		t.Fatal(err)
	}
	argv, err := u.command([]string{"PATH=/bin", "FLAGS=-b  -c d"})
	if got := strings.Join(argv, "|"); err != nil || got != "/bin/x|--a|-b|-c|d" {
		t.Errorf("command %s, %v", got, err)
	}
	for _, bad := range []string{
		"[Service]\nType=notify\nExecStart=/bin/x\nUnheardOf=1\n",
		"[Service]\nType=notify\nExecStart=x\n",
		"[Service]\nType=forking\nExecStart=/bin/x\n",
		"[Service]\nType=notify\nExecStart=/bin/x\nKillMode=mixed\n",
	} {
		if _, err := parseUnit("x.service", bad); err == nil {
			t.Errorf("accepted: %q", bad)
		}
	}
}
