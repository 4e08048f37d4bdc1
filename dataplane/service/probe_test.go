package service

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKernelsBelowTheFloorAreToldWhatTheyLack(t *testing.T) {
	types := filepath.Join(t.TempDir(), "vmlinux")
	if err := os.WriteFile(types, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const old = "kernel %s is too old: 6.1 or later is needed"
	for _, c := range []struct{ release, types, want string }{
		{"5.15.0-91-generic", types, old},
		{"6.0.19", types, old},
		{"6.0.19", "", old},
		{"6.1.0-18-amd64", types, ""},
		{"6.1.0-18-amd64", types + ".gone", "kernel %s has no BTF (" + types + ".gone is missing): use a kernel built with CONFIG_DEBUG_INFO_BTF"},
		{"6.18.44", types, ""},
		{"7.0", types, ""},
		{"new", types, `kernel version "%s" is not understood: expected integer`},
	} {
		got := ""
		if err := checkKernel(c.release, c.types); err != nil {
			got = err.Error()
		}
		want := strings.Replace(c.want, "%s", c.release, 1)
		if got != want {
			t.Errorf("kernel %s: %q, want %q", c.release, got, want)
		}
	}
}

func TestOpenNamesWhatIsMissing(t *testing.T) {
	s := newStage(t)
	for want, o := range map[string]Options{
		"not on a BPF filesystem":      {PinDir: filepath.Join(t.TempDir(), "skep"), CgroupPath: s.cgroup},
		"not in a cgroup v2 hierarchy": {PinDir: s.pins, CgroupPath: t.TempDir()},
	} {
		if p, err := Open(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open(%+v): %v, %v, want an error with %q", o, p, err, want)
		}
	}
}

func TestOneOwnerAtATime(t *testing.T) {
	s := newStage(t)
	p := s.open(t)
	if second, err := Open(Options{PinDir: s.pins, CgroupPath: s.cgroup}); err == nil || !strings.Contains(err.Error(), "owned by another process") {
		t.Errorf("a second Open: %v, %v", second, err)
	}
	p.Close()
	s.open(t)
}
