package images

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// library matches a line of ldd(1): "libm.so.6 => /lib/…/libm.so.6 (0x…)", or the loader's, which has no arrow.
var library = regexp.MustCompile(`(?:=> )?(/\S+) \(0x[0-9a-f]+\)`)

// Programs returns the files of programs that are installed on this machine, with
// the libraries and the loader that they need. They are in /usr/bin inside the
// image, the libraries where the loader searches for them.
func Programs(names ...string) ([]File, error) {
	var files []File
	for _, name := range names {
		program, err := exec.LookPath(name)
		if err != nil {
			return nil, fmt.Errorf("%s not found in the PATH: install it", name)
		}
		files = append(files, File{Path: "/usr/bin/" + name, Source: program, Mode: 0o755})
		out, err := exec.Command("ldd", program).CombinedOutput()
		if err != nil && !strings.Contains(string(out), "not a dynamic executable") {
			return nil, fmt.Errorf("ldd %s: %w: %s", program, err, out)
		}
		for _, match := range library.FindAllStringSubmatch(string(out), -1) {
			files = append(files, File{Path: match[1], Source: match[1], Mode: 0o755})
		}
	}
	return slices.CompactFunc(sorted(files), func(a, b File) bool { return a.Path == b.Path }), nil
}

// withFolders adds the parent folders of the files that are not listed.
func withFolders(files []File) []File {
	known := map[string]bool{"/": true}
	for _, file := range files {
		known[file.Path] = true
	}
	var missing []File
	for _, file := range files {
		for dir := filepath.Dir(file.Path); !known[dir]; dir = filepath.Dir(dir) {
			known[dir] = true
			missing = append(missing, File{Path: dir, Mode: 0o755})
		}
	}
	return append(missing, files...)
}

func sorted(files []File) []File {
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return files
}
