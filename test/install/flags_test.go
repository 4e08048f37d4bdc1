package install

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

var (
	helpFlag = regexp.MustCompile(`(?m)^ +(?:-\w, )?(--[a-z-]+)(?: \w+)? {2,}.*?(?:\(default "?([^")]*)"?\))?$`)
	rowFlag  = regexp.MustCompile("(?m)^\\| `(--[a-z-]+)` \\| (?:`(.*?)`)? ?\\|")
)

// The tables of flags say what --help says: the same flags, the same defaults.
func TestFlagTables(t *testing.T) {
	text, err := os.ReadFile(documentPath)
	if err != nil {
		t.Fatal(err)
	}
	_, tables, ok := strings.Cut(string(text), "\n## Flags\n")
	if !ok {
		t.Fatal("install.md has no section Flags")
	}
	skepd, agent, ok := strings.Cut(tables, "\n`skep-agent`")
	if !ok {
		t.Fatal("install.md has no table of skep-agent's flags")
	}
	for program, table := range map[string]string{"skepd": skepd, "skep-agent": agent} {
		out, err := exec.Command("../../bin/"+program, "--help").CombinedOutput()
		if err != nil {
			t.Fatalf("%s --help: %v (are the programs built? `make build`)\n%s", program, err, out)
		}
		help, page := defaults(helpFlag, string(out)), defaults(rowFlag, table)
		delete(help, "--help")
		delete(help, "--version")
		if len(help) < 10 {
			t.Errorf("%s --help: only %d flags found in it:\n%s", program, len(help), out)
		}
		for flag, value := range help {
			if said, ok := page[flag]; !ok {
				t.Errorf("install.md lacks %s %s", program, flag)
			} else if said != value {
				t.Errorf("%s %s: the default is %q, install.md says %q", program, flag, value, said)
			}
		}
		for flag := range page {
			if _, ok := help[flag]; !ok {
				t.Errorf("install.md lists %s %s, which there is not", program, flag)
			}
		}
	}
}

func defaults(pattern *regexp.Regexp, text string) map[string]string {
	found := map[string]string{}
	for _, match := range pattern.FindAllStringSubmatch(text, -1) {
		found[match[1]] = match[2]
	}
	return found
}
