package images

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func open(archive []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil }
}

func TestEqualFilesMakeAnEqualImage(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("#!"), 0o700); err != nil {
		t.Fatal(err)
	}
	var first, second bytes.Buffer
	for _, out := range []*bytes.Buffer{&first, &second} {
		if err := Write(out, EchoImage(program)); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("two archives of the same files differ")
	}
	image, err := tarball.Image(open(first.Bytes()), nil)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(config.Config.Entrypoint, []string{"/echo"}) || config.OS != "linux" {
		t.Errorf("configuration: %+v", config)
	}
	manifest, err := tarball.LoadManifest(open(first.Bytes()))
	if err != nil || len(manifest) != 1 || !slices.Equal(manifest[0].RepoTags, []string{Echo}) {
		t.Errorf("manifest: %+v, %v; want the tag %s", manifest, err, Echo)
	}
	layers, err := image.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("layers: %v, %v", layers, err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	modes := map[string]int64{}
	for files := tar.NewReader(content); ; {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		modes[header.Name] = header.Mode
	}
	if modes["echo"] != 0o755 || modes["tmp/"] != 0o1777 || modes["etc/passwd"] != 0o644 {
		t.Errorf("modes of the files: %v", modes)
	}
}

func TestMissingProgramIsNamed(t *testing.T) {
	err := Write(io.Discard, DNSImage("/nowhere/skep-dns"))
	if err == nil || !strings.Contains(err.Error(), "/nowhere/skep-dns") || !strings.Contains(err.Error(), DNS) {
		t.Errorf("error %v names neither the image nor the file", err)
	}
}

// The shell image needs no files besides its own.
func TestShellImageRuns(t *testing.T) {
	image, err := ShellImage()
	if err != nil {
		t.Fatal(err)
	}
	content, err := layer(image.Files)
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	unpack := exec.Command("tar", "-x", "-C", root)
	unpack.Stdin = bytes.NewReader(content)
	if out, err := unpack.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := exec.Command("chroot", root, "/bin/sh", "-c", "echo $(id -un) $(ls -d /tmp)").CombinedOutput()
	if err != nil || string(out) != "root /tmp\n" {
		t.Errorf("the shell said %q, %v", out, err)
	}
}

// Programs returns all files that a program needs: it runs in a root that has no others.
func TestProgramsRunInARootOfTheirOwn(t *testing.T) {
	files, err := Programs("ip", "nft")
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	for _, file := range withFolders(files) {
		path := filepath.Join(root, file.Path)
		if file.Source == "" {
			if err := os.MkdirAll(path, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		data, err := os.ReadFile(file.Source)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"ip", "nft"} {
		out, err := exec.Command("chroot", root, "/usr/bin/"+name, "-V").CombinedOutput()
		if err != nil {
			t.Errorf("%s -V: %v: %s", name, err, out)
		}
	}
	if _, err := Programs("no-such-program"); err == nil || !strings.Contains(err.Error(), "no-such-program not found") {
		t.Errorf("a program that is not there: %v", err)
	}
}
