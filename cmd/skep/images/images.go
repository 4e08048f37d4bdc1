// Package images builds the small images that Skep's own programs need, from
// static binaries, without a container engine or a registry: an image is one
// layer with the files and a configuration, in a docker archive that `skep image
// load`, containerd and other engines read. Equal files make an equal image.
//
// It never fetches a base image.
package images

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// The images' names. "dev" is what is built from this tree.
const (
	Echo  = "skep/echo:dev"
	Shell = "skep/shell:dev"
	DNS   = "skep/dns:dev"
)

// Image is the content of an image.
type Image struct {
	Name       string
	Files      []File
	Entrypoint []string
	Cmd        []string
	Env        []string
	User       string
}

// File is a file, link or folder of the layer.
type File struct {
	Path   string // inside the image, absolute
	Source string // on this machine; or
	Data   []byte // the content; or
	Link   string // the target of a symbolic link; none of the three: a folder
	Mode   int64
}

// EchoImage runs the echo program at the given path.
func EchoImage(program string) Image {
	return Image{
		Name:       Echo,
		Files:      append(system(), File{Path: "/echo", Source: program, Mode: 0o755}),
		Entrypoint: []string{"/echo"},
		Cmd:        []string{"serve"},
	}
}

// DNSImage runs skep-dns. Its Corefile is mounted.
func DNSImage(program string) Image {
	return Image{
		Name:       DNS,
		Files:      append(system(), File{Path: "/skep-dns", Source: program, Mode: 0o755}),
		Entrypoint: []string{"/skep-dns", "-conf", "/etc/skep-dns/Corefile"},
	}
}

// ShellImage holds this machine's static busybox under all its names.
func ShellImage() (Image, error) {
	files, err := ShellFiles()
	if err != nil {
		return Image{}, err
	}
	return Image{Name: Shell, Files: files, Cmd: []string{"/bin/sh"}, Env: []string{"PATH=/bin"}}, nil
}

// ShellFiles are what any image with a shell has.
func ShellFiles() ([]File, error) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return nil, errors.New("busybox not found in the PATH: install it with `make deps` or `apt-get install busybox-static`")
	}
	list, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --list: %w", busybox, err)
	}
	files := append(system(), File{Path: "/bin", Mode: 0o755}, File{Path: "/bin/busybox", Source: busybox, Mode: 0o755})
	for _, applet := range strings.Fields(string(list)) {
		if applet != "busybox" {
			files = append(files, File{Path: "/bin/" + applet, Link: "busybox"})
		}
	}
	return files, nil
}

// system is what programs expect to find anywhere.
func system() []File {
	return []File{
		{Path: "/etc", Mode: 0o755},
		{Path: "/etc/passwd", Data: []byte("root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"), Mode: 0o644},
		{Path: "/etc/group", Data: []byte("root:x:0:\nnobody:x:65534:\n"), Mode: 0o644},
		{Path: "/tmp", Mode: 0o1777},
	}
}

// Write writes the image as a docker archive.
func Write(w io.Writer, image Image) error {
	tag, err := name.NewTag(image.Name)
	if err != nil {
		return err
	}
	content, err := layer(image.Files)
	if err != nil {
		return fmt.Errorf("image %s: %w", image.Name, err)
	}
	opened := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
	rootfs, err := tarball.LayerFromOpener(opened)
	if err != nil {
		return fmt.Errorf("image %s: %w", image.Name, err)
	}
	built, err := mutate.AppendLayers(empty.Image, rootfs)
	if err != nil {
		return err
	}
	built, err = mutate.ConfigFile(built, configFile(built, image))
	if err != nil {
		return err
	}
	return tarball.Write(tag, built, w)
}

func configFile(built v1.Image, image Image) *v1.ConfigFile {
	config, err := built.ConfigFile()
	if err != nil {
		config = &v1.ConfigFile{}
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config = v1.Config{
		Entrypoint: image.Entrypoint, Cmd: image.Cmd, User: image.User, WorkingDir: "/",
		Env: append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/"}, image.Env...),
	}
	return config
}

// WriteFile writes the archive to a file, which appears when it is complete.
func WriteFile(file string, image Image) error {
	out, err := os.CreateTemp(path.Dir(file), ".image-*")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	if err := errors.Join(Write(out, image), out.Chmod(0o644), out.Close()); err != nil {
		return err
	}
	return os.Rename(out.Name(), file)
}

// layer is a tar of the files in the order of their paths, without times, so
// that equal files give equal bytes.
func layer(files []File) ([]byte, error) {
	files = sorted(withFolders(files))
	var buf bytes.Buffer
	out := tar.NewWriter(&buf)
	for _, file := range files {
		header := &tar.Header{Name: strings.TrimPrefix(file.Path, "/"), Mode: file.Mode, Format: tar.FormatPAX}
		data := file.Data
		switch {
		case file.Link != "":
			header.Typeflag, header.Linkname, header.Mode = tar.TypeSymlink, file.Link, 0o777
		case file.Source != "":
			var err error
			if data, err = os.ReadFile(file.Source); err != nil {
				return nil, err
			}
			fallthrough
		case data != nil:
			header.Typeflag, header.Size = tar.TypeReg, int64(len(data))
		default:
			header.Typeflag, header.Name = tar.TypeDir, header.Name+"/"
		}
		if err := out.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := out.Write(data); err != nil {
			return nil, err
		}
	}
	return buf.Bytes(), out.Close()
}
