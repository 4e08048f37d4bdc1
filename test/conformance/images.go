package main

import (
	"fmt"
	"path/filepath"
	"slices"

	imageutils "k8s.io/kubernetes/test/utils/image"

	"github.com/skep-io/skep/cmd/skep/images"
)

// tools are the programs besides agnhost that tests call in its image. The shell is not busybox': that one takes its own nc
// before the one that tests mean.
var tools = []string{"dash", "curl", "nc", "ss", "ip", "dig", "getent"}

// images writes an archive for every image that the areas' tests use, under the name that the suite has for it.
func (s *suite) images() ([]string, error) {
	shell, err := images.ShellFiles()
	if err != nil {
		return nil, err
	}
	agnhost, err := s.agnhostFiles(shell)
	if err != nil {
		return nil, err
	}
	page := images.File{Path: "/usr/share/nginx/html/index.html", Mode: 0o644,
		Data: []byte("<!DOCTYPE html>\n<title>Welcome to nginx!</title>\n<h1>Welcome to nginx!</h1>\n")}
	server := images.Image{Files: append(slices.Clone(shell), page), Cmd: []string{"busybox", "httpd", "-f", "-p", "80", "-h", "/usr/share/nginx/html"}}
	test := images.Image{Files: agnhost, Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}}
	all := []struct {
		id    imageutils.ImageID
		file  string
		image images.Image
	}{
		{imageutils.Agnhost, "agnhost.tar", test},
		{imageutils.AgnhostPrev, "agnhost-previous.tar", test},
		{imageutils.GlibcDnsTesting, "glibc-dns-testing.tar", test},
		{imageutils.Pause, "pause.tar", test},
		{imageutils.BusyBox, "busybox.tar", images.Image{Files: shell, Cmd: []string{"/bin/sh"}}},
		{imageutils.Nginx, "nginx.tar", server},
		{imageutils.NginxNew, "nginx-new.tar", server},
	}
	var archives []string
	for _, a := range all {
		a.image.Name = imageutils.GetE2EImage(a.id)
		file := filepath.Join(s.dir, a.file)
		if err := images.WriteFile(file, a.image); err != nil {
			return nil, fmt.Errorf("image %s: %w", a.image.Name, err)
		}
		archives = append(archives, file)
	}
	return archives, nil
}

// agnhostFiles follow the image's own recipe: the program under both of its names, the certificate of its porter, the users
// that tests ask for, and the tools.
func (s *suite) agnhostFiles(shell []images.File) ([]images.File, error) {
	installed, err := images.Programs(tools...)
	if err != nil {
		return nil, err
	}
	files := slices.DeleteFunc(slices.Clone(shell), func(f images.File) bool {
		return f.Path == "/etc/passwd" || f.Path == "/etc/group" || f.Path == "/bin/sh" || slices.Contains(tools, filepath.Base(f.Path))
	})
	files = append(files, installed...)
	return append(files,
		images.File{Path: "/bin/sh", Link: "/usr/bin/dash"},
		images.File{Path: "/agnhost", Source: s.agnhost, Mode: 0o755},
		images.File{Path: "/agnhost-2", Link: "agnhost"},
		images.File{Path: "/localhost.crt", Source: filepath.Join(s.source, "porter", "localhost.crt"), Mode: 0o644},
		images.File{Path: "/localhost.key", Source: filepath.Join(s.source, "porter", "localhost.key"), Mode: 0o644},
		images.File{Path: "/uploads", Mode: 0o755},
		images.File{Path: "/etc/passwd", Mode: 0o644, Data: []byte("root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n" +
			"user-defined-in-image:x:1000:1000::/:/bin/sh\n")},
		images.File{Path: "/etc/group", Mode: 0o644, Data: []byte("root:x:0:\nnobody:x:65534:\nuser-defined-in-image:x:1000:\n" +
			"group-defined-in-image:x:50000:user-defined-in-image\n")},
	), nil
}
