package kinds

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"github.com/skep-io/skep/controlplane/resource"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// TestManifests takes manifests through what a create does with them before it
// is written, and an update after it where a second manifest follows. Each
// archive holds create.yaml, optionally update.yaml or status.yaml, and what
// came out: the objects, or Kubernetes' errors.
func TestManifests(t *testing.T) {
	files, err := filepath.Glob("testdata/manifests/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no manifests: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			out := &txtar.Archive{Comment: archive.Comment}
			var current resource.Object
			for _, in := range archive.Files {
				verb, isInput := strings.CutSuffix(in.Name, ".yaml")
				if !isInput {
					continue
				}
				result, obj := runManifest(t, verb, in.Data, current)
				if obj != nil {
					current = obj
				}
				out.Files = append(out.Files, in, txtar.File{Name: verb + ".out", Data: result})
			}
			compareGolden(t, file, txtar.Format(archive), txtar.Format(out))
		})
	}
}

// compareGolden fails with a diff of the first lines that differ, or rewrites the file.
func compareGolden(t *testing.T, file string, want, got []byte) {
	t.Helper()
	if bytes.Equal(want, got) {
		return
	}
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	wantLines, gotLines := strings.Split(string(want), "\n"), strings.Split(string(got), "\n")
	for i, line := range gotLines {
		if i >= len(wantLines) || line != wantLines[i] {
			old := "(end of file)"
			if i < len(wantLines) {
				old = wantLines[i]
			}
			t.Fatalf("%s:%d: got\n  %s\nwant\n  %s\n(go test -run %s -update rewrites it)", file, i+1, line, old, t.Name())
		}
	}
	t.Fatalf("%s: got %d lines, want %d", file, len(gotLines), len(wantLines))
}

// runManifest returns what the step shows, and the object if it was accepted.
func runManifest(t *testing.T, verb string, manifest []byte, current resource.Object) ([]byte, resource.Object) {
	t.Helper()
	kind, obj := parseManifest(t, manifest)
	kind.Default(obj)
	var errs field.ErrorList
	switch verb {
	case "create":
		if kind.PrepareForCreate != nil {
			kind.PrepareForCreate(obj)
		}
		errs = kind.ValidateCreate(obj)
	case "update":
		obj.SetResourceVersion("1")
		if kind.PrepareForUpdate != nil {
			kind.PrepareForUpdate(obj, current)
		}
		errs = kind.ValidateUpdate(obj, current)
	case "status":
		obj.SetResourceVersion("1")
		kind.Status.PrepareForUpdate(obj, current)
		errs = kind.Status.Validate(obj, current)
	default:
		t.Fatalf("a manifest is called create, update or status, not %q", verb)
	}
	var text bytes.Buffer
	if len(errs) > 0 {
		err := apierrors.NewInvalid(kind.GVK.GroupKind(), obj.GetName(), errs)
		text.WriteString(err.Error() + "\n")
		return text.Bytes(), nil
	}
	if kind.Warnings != nil && verb == "create" {
		for _, warning := range kind.Warnings(obj) {
			fmt.Fprintf(&text, "Warning: %s\n", warning)
		}
	}
	obj.SetResourceVersion("1")
	data, err := yaml.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	text.Write(data)
	return text.Bytes(), obj
}

func parseManifest(t *testing.T, manifest []byte) (*resource.Kind, resource.Object) {
	t.Helper()
	var head struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	if err := yaml.Unmarshal(manifest, &head); err != nil {
		t.Fatal(err)
	}
	for _, kind := range All() {
		if kind.GVK == schema.FromAPIVersionAndKind(head.APIVersion, head.Kind) {
			obj := kind.New()
			if err := yaml.UnmarshalStrict(manifest, obj); err != nil {
				t.Fatal(err)
			}
			obj.SetUID("11111111-2222-3333-4444-555555555555")
			if kind.Namespaced && obj.GetNamespace() == "" {
				obj.SetNamespace("default")
			}
			return kind, obj
		}
	}
	t.Fatalf("no kind %s %s", head.APIVersion, head.Kind)
	return nil, nil
}
