package service

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestKernelFloor(t *testing.T) {
	for release, ok := range map[string]bool{"5.15.0-91-generic": false, "6.0.19": false, "6.1.0-18-amd64": true, "6.18.44": true, "7.0": true, "new": false} {
		if err := checkRelease(release); (err == nil) != ok {
			t.Errorf("kernel %s: %v", release, err)
		}
	}
}

func TestOpenNamesWhatIsMissing(t *testing.T) {
	s := newSandbox(t)
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
	s := newSandbox(t)
	p := s.open(t)
	if second, err := Open(Options{PinDir: s.pins, CgroupPath: s.cgroup}); err == nil || !strings.Contains(err.Error(), "owned by another process") {
		t.Errorf("a second Open: %v, %v", second, err)
	}
	p.Close()
	s.open(t)
}
