package skep

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestEndpointsFileIsFollowed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "endpoints")
	write := func(text string) {
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := readEndpoints(path); err == nil {
		t.Error("a missing file is read")
	}
	if write(" \n"); func() bool { _, err := readEndpoints(path); return err == nil }() {
		t.Error("an empty file is read")
	}
	write("https://a:2379\n")
	known, err := readEndpoints(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	changed := make(chan []string, 1)
	go followEndpoints(ctx, path, known, func(now ...string) { changed <- now })
	write("https://a:2379,https://b:2379")
	select {
	case now := <-changed:
		if !slices.Equal(now, []string{"https://a:2379", "https://b:2379"}) {
			t.Errorf("the endpoints are %v", now)
		}
	case <-ctx.Done():
		t.Error("the change is not noticed")
	}
}
