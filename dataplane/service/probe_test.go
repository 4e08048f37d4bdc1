package service

import (
	"path/filepath"
	"strings"
	"testing"
)

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
