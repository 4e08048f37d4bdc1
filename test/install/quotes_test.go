package install

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// others' words are not in our sources: systemd's, Kubernetes' and crypto/x509's.
var otherWords = regexp.MustCompile(`^(NotReady|Pending|ErrImagePull|logs|exec|Failed to load environment files|certificate is valid for …, not …)$`)

// The messages in the table of problems exist: every part of a quote between its
// gaps (…) is in the programs' sources.
func TestTroubleshootingQuotesThePrograms(t *testing.T) {
	text, err := os.ReadFile(documentPath)
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(text), "\n## Troubleshooting\n")
	if !ok {
		t.Fatal("install.md has no section Troubleshooting")
	}
	table, _, _ = strings.Cut(table, "\n## ")
	code := sources(t)
	quoted := 0
	for _, row := range strings.Split(table, "\n") {
		cells := strings.Split(row, "|")
		if len(cells) < 3 {
			continue
		}
		for _, quote := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[1], -1) {
			if otherWords.MatchString(quote[1]) {
				continue
			}
			quoted++
			for _, part := range strings.Split(quote[1], "…") {
				if !strings.Contains(code, strings.TrimSpace(part)) {
					t.Errorf("install.md quotes %q, but no program says %q", quote[1], strings.TrimSpace(part))
				}
			}
		}
	}
	if quoted < 5 {
		t.Errorf("only %d quotes found in the table of problems", quoted)
	}
}

func sources(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, room := range []string{"agent", "cmd", "controlplane", "dataplane"} {
		err := filepath.WalkDir(filepath.Join("../..", room), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			data, err := os.ReadFile(path)
			all.Write(data)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all.String()
}
