package runtime

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// A seccomp profile of the node is read, or the container is refused: it never runs without.
func TestReadSeccomp(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, "seccomp", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	write("profiles/audit.json", `{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"}]}`)
	write("broken.json", `{"defaultAction":`)
	write("empty.json", `{}`)
	write("../outside.json", `{"defaultAction":"SCMP_ACT_ALLOW"}`)
	root := filepath.Join(dir, "seccomp")
	for name, want := range map[string]string{
		"profiles/audit.json": "",
		"broken.json":         "decoding seccomp profile failed",
		"empty.json":          "it has no defaultAction",
		"none.json":           "cannot load seccomp profile",
		"profiles":            "cannot load seccomp profile",
		"../outside.json":     "is not a path below",
		"/etc/hosts":          "is not a path below",
		"":                    "is not a path below",
	} {
		profile, err := readSeccomp(root, name)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", name, err, want)
		}
		if err == nil && (profile.DefaultAction != specs.ActErrno || len(profile.Syscalls) != 1) {
			t.Errorf("%q: %+v", name, profile)
		}
	}
}

// Whether a host has AppArmor and a profile, by its kernel's files.
func TestAppArmor(t *testing.T) {
	dir := t.TempDir()
	profiles, enabled := filepath.Join(dir, "profiles"), filepath.Join(dir, "enabled")
	absent := func() bool { return appArmor(profiles, enabled) != nil }
	if !absent() {
		t.Error("a kernel without AppArmor has it")
	}
	if err := errors.Join(os.WriteFile(enabled, []byte("N\n"), 0o644), os.WriteFile(profiles, nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	if !absent() {
		t.Error("AppArmor that is switched off is on")
	}
	if err := os.WriteFile(enabled, []byte("Y\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if absent() {
		t.Error("AppArmor is not seen")
	}
	const loaded = "docker-default (enforce)\n/usr/bin/with (parens) (complain)\n"
	for name, want := range map[string]bool{"docker-default": true, "/usr/bin/with (parens)": true, "docker": false, "": false} {
		if got := hasProfile(bufio.NewScanner(strings.NewReader(loaded)), name); got != want {
			t.Errorf("profile %q: %v", name, got)
		}
	}
}

func TestUserLabel(t *testing.T) {
	for _, u := range []*User{nil, {UID: 0, GID: 0}, {UID: 1000, GID: 2000, Groups: []uint32{2000, 4294967295}}} {
		c := Container{User: u}
		got := userOfLabel(c.labels()[labelUser])
		if (got == nil) != (u == nil) || u != nil && (got.UID != u.UID || got.GID != u.GID || len(got.Groups) != len(u.Groups)) {
			t.Errorf("%+v became %+v", u, got)
		}
	}
}
