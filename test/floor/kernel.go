// Package floor runs the data plane's tests on the distribution's own kernel,
// in a virtual machine: on Debian 12 that is 6.1, the oldest kernel that Skep
// works on. It owns the machine, the kernel package's files below bin/floor,
// and nothing of the host besides; it installs nothing.
package floor

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// kernel is an unpacked kernel package.
type kernel struct {
	release string // as uname says
	image   string // file
	modules string // folder, with what depmod writes
}

// images are the packages that depend on a distribution's newest kernel for
// virtual machines: Debian's, Ubuntu's.
var images = []string{"linux-image-cloud-amd64", "linux-image-virtual"}

// fetchKernel unpacks the distribution's kernel into a folder below cache,
// unless it is there. progress gets what takes time.
func fetchKernel(cache string, progress func(format string, args ...any)) (*kernel, error) {
	packages, err := kernelPackages()
	if err != nil {
		progress("floor: fetching the package lists (%v)", err)
		if _, err := output("", "apt-get", "update", "-qq"); err != nil {
			return nil, fmt.Errorf("fetch the package lists, to find a kernel package: %w", err)
		}
		if packages, err = kernelPackages(); err != nil {
			return nil, err
		}
	}
	folder, err := unpack(cache, packages, progress)
	if err != nil {
		return nil, err
	}
	return unpacked(folder)
}

var dependency = regexp.MustCompile(`(?m)^\s*Depends: (linux-(?:image|modules)-\S+)$`)

// kernelPackages names the packages that hold the kernel and its modules.
func kernelPackages() ([]string, error) {
	var tried []error
	for _, image := range images {
		// A distribution that lacks the package says so on stderr.
		out, err := output("", "apt-cache", "depends", image)
		if err != nil {
			tried = append(tried, err)
			continue
		}
		var packages []string
		for _, d := range dependency.FindAllStringSubmatch(out, -1) {
			packages = append(packages, d[1])
			more, err := output("", "apt-cache", "depends", d[1])
			if err != nil {
				return nil, err
			}
			for _, d := range dependency.FindAllStringSubmatch(more, -1) {
				packages = append(packages, d[1])
			}
		}
		if len(packages) > 0 {
			return packages, nil
		}
		tried = append(tried, fmt.Errorf("%s depends on no kernel", image))
	}
	return nil, fmt.Errorf("no kernel package to test with: none of %s is in the package lists: %w",
		strings.Join(images, ", "), errors.Join(tried...))
}

// unpack returns the folder with the packages' files. It is made whole or not
// at all, so that one that is there can be used.
func unpack(cache string, packages []string, progress func(string, ...any)) (string, error) {
	name, err := fileNames(packages)
	if err != nil {
		return "", err
	}
	folder := filepath.Join(cache, name)
	if _, err := os.Stat(folder); err == nil {
		return folder, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	unfinished, err := os.MkdirTemp(cache, "unfinished-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(unfinished)
	progress("floor: fetching %s", strings.Join(packages, " "))
	if err := download(unfinished, packages); err != nil {
		return "", err
	}
	archives, err := filepath.Glob(filepath.Join(unfinished, "*.deb"))
	if err != nil || len(archives) == 0 {
		return "", fmt.Errorf("fetch %s: no package arrived (%v)", strings.Join(packages, " "), err)
	}
	for _, archive := range archives {
		if _, err := output("", "dpkg-deb", "-x", archive, unfinished); err != nil {
			return "", err
		}
		if err := os.Remove(archive); err != nil {
			return "", err
		}
	}
	k, err := unpacked(unfinished)
	if err != nil {
		return "", err
	}
	if err := indexModules(unfinished, k); err != nil {
		return "", err
	}
	return folder, os.Rename(unfinished, folder)
}

// download tries again with fresh lists: the archive no longer has a kernel that
// was replaced.
func download(folder string, packages []string) error {
	args := append([]string{"download", "-qq"}, packages...)
	if _, err := output(folder, "apt-get", args...); err == nil {
		return nil
	}
	if _, err := output("", "apt-get", "update", "-qq"); err != nil {
		return fmt.Errorf("fetch the package lists: %w", err)
	}
	if _, err := output(folder, "apt-get", args...); err != nil {
		return fmt.Errorf("fetch the kernel to test with: %w", err)
	}
	return nil
}

// fileNames are the archives' names, versions included, in one word.
func fileNames(packages []string) (string, error) {
	out, err := output("", "apt-get", append([]string{"download", "--print-uris"}, packages...)...)
	if err != nil {
		return "", err
	}
	var names []string
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		// 'ADDRESS' NAME SIZE HASH
		if fields := strings.Fields(line); len(fields) > 2 && strings.HasSuffix(fields[1], ".deb") {
			names = append(names, strings.TrimSuffix(fields[1], ".deb"))
		}
	}
	if len(names) != len(packages) {
		return "", fmt.Errorf("%d packages wanted (%s), apt knows %d: %q", len(packages), strings.Join(packages, " "), len(names), out)
	}
	return strings.Join(names, "+"), nil
}

func unpacked(folder string) (*kernel, error) {
	found, err := filepath.Glob(filepath.Join(folder, "boot", "vmlinuz-*"))
	if err != nil || len(found) != 1 {
		return nil, fmt.Errorf("%s has %d kernels in boot/, want one (%v); remove the folder to fetch it anew", folder, len(found), err)
	}
	release := strings.TrimPrefix(filepath.Base(found[0]), "vmlinuz-")
	for _, lib := range []string{"lib", "usr/lib"} {
		modules := filepath.Join(folder, lib, "modules", release)
		if _, err := os.Stat(modules); err == nil {
			return &kernel{release: release, image: found[0], modules: modules}, nil
		}
	}
	return nil, fmt.Errorf("%s has no modules of kernel %s; remove the folder to fetch it anew", folder, release)
}

// indexModules writes modules.dep and modules.alias, which packages leave to
// the host that installs them. busybox reads uncompressed modules only.
func indexModules(folder string, k *kernel) error {
	for suffix, expand := range map[string][]string{".xz": {"xz", "-d"}, ".zst": {"zstd", "-q", "-d", "--rm"}} {
		var packed []string
		err := filepath.WalkDir(k.modules, func(path string, _ os.DirEntry, err error) error {
			if strings.HasSuffix(path, ".ko"+suffix) {
				packed = append(packed, path)
			}
			return err
		})
		if err != nil {
			return err
		}
		if len(packed) > 0 {
			if _, err := output("", expand[0], append(expand[1:], packed...)...); err != nil {
				return fmt.Errorf("unpack the kernel's modules: %w", err)
			}
		}
	}
	base := strings.TrimSuffix(k.modules, filepath.Join("lib", "modules", k.release))
	_, err := output(folder, "busybox", "depmod", "-b", base, k.release)
	return err
}

// output runs a command in a folder; its error has what the command said.
func output(folder, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), "LC_ALL=C", "CGO_ENABLED=0") // the guest has no libraries
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		line := strings.Join(append([]string{name}, args...), " ")
		if len(line) > 200 {
			line = line[:200] + "..."
		}
		return "", fmt.Errorf("%s: %w: %s", line, err, strings.TrimSpace(said.String()))
	}
	return string(out), nil
}
