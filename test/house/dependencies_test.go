package house

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Whatever the code imports has a reason that someone can read.
func TestEveryDependencyHasAReason(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root(t), "docs/dependencies.md"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "mod", "edit", "-json")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go mod edit: %v", err)
	}
	var file struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	if err := json.Unmarshal(out, &file); err != nil || len(file.Require) < 10 {
		t.Fatalf("go.mod has %d requirements: %v", len(file.Require), err)
	}
	for _, r := range file.Require {
		if !r.Indirect && !strings.Contains(string(page), r.Path+" ") && !strings.Contains(string(page), r.Path+",") {
			t.Errorf("docs/dependencies.md does not say why %s is needed", r.Path)
		}
	}
}
