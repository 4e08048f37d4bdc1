package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/agent/confine"
)

const (
	testPasswd = "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\napp:x:1234:2345:app:/:/bin/sh\r\nbad:x:-1:0::/:\nlast:x:7:8"
	testGroup  = "root:x:0:\nwheel:x:10:root,app\nwheel2:x:10:app\napp:x:2345:\nbad:x:what:app\n"
)

func TestUsersAreFound(t *testing.T) {
	for spec, want := range map[string]specs.User{
		"":          {UID: 0, GID: 0, AdditionalGids: []uint32{10}},
		"app":       {UID: 1234, GID: 2345, AdditionalGids: []uint32{10}},
		"1234":      {UID: 1234, GID: 2345, AdditionalGids: []uint32{10}},
		"app:wheel": {UID: 1234, GID: 10, AdditionalGids: []uint32{10}},
		"55:66":     {UID: 55, GID: 66},
		"55":        {UID: 55},
		"last":      {UID: 7, GID: 8},
	} {
		got, err := parseUser(testPasswd, testGroup, spec)
		if err != nil || got.UID != want.UID || got.GID != want.GID || !slices.Equal(got.AdditionalGids, want.AdditionalGids) {
			t.Errorf("%q: %+v, %v", spec, got, err)
		}
	}
	for _, spec := range []string{"nobody", "app:nobody", "bad", "4294967296"} {
		if got, err := parseUser(testPasswd, testGroup, spec); err == nil {
			t.Errorf("%q is %+v", spec, got)
		}
	}
	var many strings.Builder
	for i := range maxGroups + 1 {
		fmt.Fprintf(&many, "g%d:x:%d:app\n", i, i)
	}
	if _, err := parseUser(testPasswd, many.String(), "app"); err == nil {
		t.Error("more groups than the kernel accepts are accepted")
	}
}

// An image is what its builder made it: its user files are read as such or refused, and lead nowhere but into the image.
func TestUserFilesOfHostileImages(t *testing.T) {
	var invalid *ConfigError
	for name, test := range map[string]struct {
		plant func(etc string) error
		want  string // empty: uid 1234 is found
	}{
		"a FIFO": {func(etc string) error { return unix.Mkfifo(filepath.Join(etc, "passwd"), 0o600) }, "not a regular file"},
		"a device": {func(etc string) error {
			return unix.Mknod(filepath.Join(etc, "passwd"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5)))
		}, "not a regular file"},
		"a folder": {func(etc string) error { return os.Mkdir(filepath.Join(etc, "passwd"), 0o700) }, "not a regular file"},
		"a link out": {func(etc string) error {
			return os.Symlink("../../../../../../../etc/passwd", filepath.Join(etc, "passwd"))
		}, "too many levels"},
		"a magic link": {func(etc string) error { return os.Symlink("/proc/self/root/etc/passwd", filepath.Join(etc, "passwd")) }, "unable to find user app"},
		"too large": {func(etc string) error {
			return errors.Join(os.WriteFile(filepath.Join(etc, "passwd"), nil, 0o600), os.Truncate(filepath.Join(etc, "passwd"), 1<<40))
		}, "larger than"},
		"none": {func(string) error { return nil }, "unable to find user app"},
		"an absolute link": {func(etc string) error {
			return errors.Join(os.WriteFile(filepath.Join(etc, "real"), []byte(testPasswd), 0o600), os.Symlink("/etc/real", filepath.Join(etc, "passwd")))
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			etc := filepath.Join(dir, "etc")
			if err := errors.Join(os.Mkdir(etc, 0o700), test.plant(etc)); err != nil {
				t.Fatal(err)
			}
			root, err := confine.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			type result struct {
				user specs.User
				err  error
			}
			done := make(chan result, 1)
			go func() {
				user, err := userFrom(root, "app")
				done <- result{user, err}
			}()
			select {
			case got := <-done:
				if test.want == "" && (got.err != nil || got.user.UID != 1234) {
					t.Errorf("%+v, %v", got.user, got.err)
				}
				if test.want != "" && (got.err == nil || !strings.Contains(got.err.Error(), test.want) || !errors.As(got.err, &invalid)) {
					t.Errorf("error %v, want %q", got.err, test.want)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("the lookup waits for what the image has")
			}
		})
	}
}

func FuzzUser(f *testing.F) {
	for _, spec := range []string{"", "0", "app", "app:wheel", "1234:10", ":", "a:b:c", "4294967295"} {
		f.Add(testPasswd, testGroup, spec)
	}
	f.Add("a:b:1:2\x00\n::::::::\n:\n", ":::\na:b:3:a,a,a,,\n", "a")
	f.Fuzz(func(t *testing.T, passwd, group, spec string) {
		user, err := parseUser(passwd, group, spec)
		if err != nil {
			if invalid := (*ConfigError)(nil); !errors.As(err, &invalid) {
				t.Errorf("not the image's fault: %v", err)
			}
			return
		}
		name, groupName, _ := strings.Cut(spec, ":")
		if id, ok := parseID(name); ok && user.UID != id || name == "" && user.UID != 0 {
			t.Errorf("%q became %+v", spec, user)
		}
		if id, ok := parseID(groupName); ok && user.GID != id {
			t.Errorf("%q became %+v", spec, user)
		}
		if name != "" && user.UID == 0 {
			// A user is root only if its name or ID is root's.
			if id, numeric := parseID(name); !(numeric && id == 0) && !strings.Contains(passwd, name) {
				t.Errorf("%q became root", spec)
			}
		}
		if len(unique(user.AdditionalGids)) != len(user.AdditionalGids) || len(user.AdditionalGids) > strings.Count(group, "\n")+1 {
			t.Errorf("groups %v", user.AdditionalGids)
		}
	})
}
