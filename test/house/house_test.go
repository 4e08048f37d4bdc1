// Package house holds the rules that the whole tree keeps: which package may import
// which, that each says what it owns, and that files stay small enough to read.
package house

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const module = "github.com/skep-io/skep"

type goPackage struct {
	ImportPath, Dir, Name, Doc                         string
	GoFiles, TestGoFiles, XTestGoFiles, IgnoredGoFiles []string
	Imports                                            []string
}

// packages lists the module's packages as the go command sees them.
func packages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Name,Doc,GoFiles,TestGoFiles,XTestGoFiles,Imports", module+"/...")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []goPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	if len(pkgs) < 10 {
		t.Fatalf("go list found only %d packages", len(pkgs))
	}
	return pkgs
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// files returns what git tracks, below the root.
func files(t *testing.T) []string {
	t.Helper()
	cmd := exec.Command("git", "ls-files")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	return strings.Fields(string(out))
}

// allowed names, for each room, the rooms of this module that it may import besides
// itself. Data and control flow down: cmd -> agent -> dataplane -> bpf.
var allowed = map[string][]string{
	"api":            {},
	"backoff":        {},
	"bpf":            {},
	"connections":    {},
	"durable":        {},
	"witness":        {"api", "controlplane/servicespec"},
	"dataplane":      {"backoff", "bpf"},
	"agent":          {"api", "backoff", "dataplane", "controlplane/servicespec", "connections", "durable", "witness"},
	"controlplane":   {"api", "backoff", "connections", "durable", "witness"},
	"coredns-plugin": {"backoff", "controlplane/storage"},
	"cmd":            {"agent", "controlplane", "coredns-plugin", "dataplane/service"},
	"docs":           {}, // embeds its examples
	"test":           {"agent", "api", "bpf", "controlplane", "coredns-plugin", "dataplane", "cmd", "docs", "witness"},

	// What agents read, too, stands on nothing.
	"controlplane/servicespec": {},

	// The command line speaks to agents by the API, and removes folders as they do.
	"cmd/skep": {"api", "backoff", "controlplane", "dataplane", "docs", "agent/confine"},
}

func TestImportsRunOneWay(t *testing.T) {
	for _, p := range packages(t) {
		path := strings.TrimPrefix(p.ImportPath, module+"/")
		room := roomOf(path)
		may, known := allowed[room]
		if !known {
			t.Errorf("%s is in none of the rooms", path)
			continue
		}
		for _, imported := range p.Imports {
			to, ours := strings.CutPrefix(imported, module+"/")
			if !ours || within(to, room) || withinAny(to, may) {
				continue
			}
			t.Errorf("%s imports %s; %s may import only %v", path, to, room, may)
		}
	}
}

// roomOf returns the innermost room that a package lies in.
func roomOf(path string) string {
	room := path
	for allowed[room] == nil && strings.Contains(room, "/") {
		room = room[:strings.LastIndex(room, "/")]
	}
	return room
}

// The data plane is for anyone: it knows nothing of Kubernetes.
func TestDataplaneKnowsNoKubernetes(t *testing.T) {
	for _, p := range packages(t) {
		path := strings.TrimPrefix(p.ImportPath, module+"/")
		if !within(path, "dataplane") && !within(path, "bpf") {
			continue
		}
		for _, imported := range p.Imports {
			if strings.HasPrefix(imported, "k8s.io/") || strings.HasPrefix(imported, "sigs.k8s.io/") {
				t.Errorf("%s imports %s", path, imported)
			}
		}
	}
}

func within(path, room string) bool { return path == room || strings.HasPrefix(path, room+"/") }

func withinAny(path string, rooms []string) bool {
	for _, room := range rooms {
		if within(path, room) {
			return true
		}
	}
	return false
}

func TestEveryPackageSaysWhatItOwns(t *testing.T) {
	for _, p := range packages(t) {
		doc := p.Doc
		if doc == "" {
			doc = testDoc(t, p)
		}
		if doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

// testDoc returns the package comment of a package that has only tests.
func testDoc(t *testing.T, p goPackage) string {
	if len(p.GoFiles) > 0 {
		return ""
	}
	for _, name := range append(p.TestGoFiles, p.XTestGoFiles...) {
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if f.Doc != nil {
			return f.Doc.Text()
		}
	}
	return ""
}

// Vague names hide what a package is for.
func TestNoPackageIsADrawer(t *testing.T) {
	drawer := regexp.MustCompile(`(^|/)(util|utils|common|helper|helpers|manager|misc)(/|\.go$|$)`)
	for _, file := range files(t) {
		if drawer.MatchString(file) {
			t.Errorf("%s: name it for what it does", file)
		}
	}
}

// Whoever reads a log at night searches it for one key.
func TestErrorsAreLoggedByOneKey(t *testing.T) {
	other := regexp.MustCompile(`[lL]og(ger)?\.(Debug|Info|Warn|Error)(Context)?\(.*"(error|reason|cause|problem)", (\w+\.)?([eE]rr|failure)\b`)
	for _, file := range files(t) {
		if filepath.Ext(file) != ".go" {
			continue
		}
		content, err := os.ReadFile(filepath.Join(root(t), file))
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range other.FindAll(content, -1) {
			t.Errorf("%s: the key of an error is \"err\": %s", file, line)
		}
	}
}

const mostLines = 400

func TestFilesAreShort(t *testing.T) {
	for _, file := range files(t) {
		switch filepath.Ext(file) {
		case ".go", ".c", ".h", ".sh":
		default:
			continue
		}
		if n, generated := countLines(t, filepath.Join(root(t), file)); n > mostLines && !generated {
			t.Errorf("%s has %d lines, more than %d: it has more than one reason to change", file, n, mostLines)
		}
	}
}

func countLines(t *testing.T, path string) (lines int, generated bool) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); lines++ {
		if lines < 5 && strings.Contains(s.Text(), "Code generated") {
			generated = true
		}
	}
	return lines, generated
}

// Work that is announced in a comment is work that nobody sees.
func TestNothingIsLeftForLater(t *testing.T) {
	later := regexp.MustCompile(`\b(TODO|FIXME|XXX|HACK)\b`)
	for _, file := range files(t) {
		ext := filepath.Ext(file)
		if (ext != ".go" && ext != ".c" && ext != ".h" && ext != ".sh" && ext != ".yaml") || file == "test/house/house_test.go" {
			continue
		}
		data, err := os.ReadFile(filepath.Join(root(t), file))
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(string(data), "\n") {
			if later.MatchString(line) {
				t.Errorf("%s:%d: %s", file, i+1, strings.TrimSpace(line))
			}
		}
	}
}

// A test that skips proves nothing and says so to nobody.
func TestNoTestSkips(t *testing.T) {
	skip := regexp.MustCompile(`\bt\.Skip(f|Now)?\(`)
	for _, file := range files(t) {
		if !strings.HasSuffix(file, "_test.go") || file == "test/house/house_test.go" {
			continue
		}
		data, err := os.ReadFile(filepath.Join(root(t), file))
		if err != nil {
			t.Fatal(err)
		}
		if skip.Match(data) {
			t.Errorf("%s skips", file)
		}
	}
}

// The kernel's side is usable by kernels under the GPL and by anyone under BSD terms.
func TestBPFCodeIsDualLicensed(t *testing.T) {
	for _, file := range files(t) {
		ext := filepath.Ext(file)
		if !strings.HasPrefix(file, "bpf/") || (ext != ".c" && ext != ".h") {
			continue
		}
		data, err := os.ReadFile(filepath.Join(root(t), file))
		if err != nil {
			t.Fatal(err)
		}
		first, _, _ := strings.Cut(string(data), "\n")
		if !strings.Contains(first, "SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause") {
			t.Errorf("%s: first line is %q, want the dual SPDX identifier", file, first)
		}
	}
}
