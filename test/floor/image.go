package floor

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/skep-io/skep/test/floor/plan"
)

// root is the module's folder.
const root = "../.."

// buildImage writes the guest's first filesystem: its first process, busybox as
// the modprobe that the kernel calls, modules, the tests and what they read.
func buildImage(path string, k *kernel, suites []suite, all bool, more []string) error {
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer out.Close()
	built, err := os.MkdirTemp(filepath.Dir(path), "built-")
	if err != nil {
		return err
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	first := filepath.Join(built, "init")
	if _, err := output(root, "go", "build", "-ldflags", "-s -w", "-o", first, "./test/floor/guest"); err != nil {
		return err
	}
	a := newArchive(out)
	a.copy(first, "/init", nil)
	a.copy(busybox, "/usr/bin/busybox", nil)
	a.symlink("/sbin/modprobe", "/usr/bin/busybox")
	a.copy(k.modules, "/lib/modules/"+k.release, func(path string) bool {
		return !strings.HasSuffix(path, ".ko") || needed(strings.TrimPrefix(path, k.modules))
	})
	a.copy(filepath.Join(root, "bpf"), filepath.Join(plan.Tree, "bpf"), func(path string) bool {
		return strings.HasSuffix(path, ".o") || strings.HasSuffix(path, ".md")
	})
	var runs []plan.Run
	for _, s := range suites {
		r, err := s.run(k.release, all)
		if err != nil {
			return err
		}
		r.Args = append(r.Args, more...)
		runs = append(runs, r)
		if err := addSuite(a, built, s); err != nil {
			return err
		}
	}
	data, err := json.Marshal(runs)
	if err != nil {
		return err
	}
	a.file(plan.File, 0o644, data)
	if err := a.close(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// needed says of a module's path whether virtual networks, or disks with quotas, may need it.
func needed(path string) bool {
	for _, folder := range []string{
		"/kernel/net/", "/kernel/drivers/net/", "/kernel/lib/", "/kernel/crypto/", "/kernel/arch/", "/kernel/fs/quota/", "/kernel/drivers/block/loop.ko",
	} {
		if strings.HasPrefix(path, folder) {
			return true
		}
	}
	return false
}

// addSuite adds the tests of a package and what lies beside them.
func addSuite(a *archive, built string, s suite) error {
	binary := filepath.Join(built, s.binary())
	if _, err := output(root, "go", "test", "-c", "-ldflags", "-s -w", "-o", binary, "./"+s.folder); err != nil {
		return err
	}
	at := filepath.Join(plan.Tree, s.folder)
	a.copy(binary, filepath.Join(at, s.binary()), nil)
	a.copy(filepath.Join(root, s.folder), at, func(path string) bool { return !strings.HasSuffix(path, ".go") })
	return nil
}
