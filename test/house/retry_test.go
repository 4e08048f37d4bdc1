package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// What is tried until it works is tried by backoff.Retry, which logs alike everywhere: a Backoff that a function makes and never
// resets is that loop by hand.
func TestRetriesAreOfOneKind(t *testing.T) {
	for _, file := range files(t) {
		if !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") || strings.HasPrefix(file, "backoff/") {
			continue
		}
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, filepath.Join(root(t), file), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			f, is := d.(*ast.FuncDecl)
			if !is || f.Body == nil {
				continue
			}
			made, reset := token.NoPos, false
			ast.Inspect(f.Body, func(n ast.Node) bool {
				s, is := n.(*ast.SelectorExpr)
				if !is {
					return true
				}
				if x, is := s.X.(*ast.Ident); is && x.Name == "backoff" && s.Sel.Name == "New" {
					made = s.Pos()
				}
				reset = reset || s.Sel.Name == "Reset"
				return true
			})
			if made.IsValid() && !reset {
				t.Errorf("%s: %s tries by hand: use backoff.Retry", set.Position(made), f.Name.Name)
			}
		}
	}
}
