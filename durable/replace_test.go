package durable_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/skep-io/skep/durable"
)

func TestWriteFileReplacesOrLeaves(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "record")
	for _, content := range []string{"one", "two, which is longer", ""} {
		if err := durable.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != content {
			t.Errorf("reads %q (%v), want %q", got, err, content)
		}
	}
	if err := durable.WriteFile(filepath.Join(dir, "absent", "record"), nil, 0o600); err == nil {
		t.Error("a file in no folder was written")
	}
	// A folder in the way: the write fails, and leaves no part of itself.
	if err := os.MkdirAll(filepath.Join(dir, "busy", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(filepath.Join(dir, "busy"), []byte("x"), 0o600); err == nil {
		t.Error("a folder was replaced")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("the folder holds %v (%v), want the record and the folder", entries, err)
	}
}
