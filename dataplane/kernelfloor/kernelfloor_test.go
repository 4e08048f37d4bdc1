package kernelfloor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKernelsBelowTheFloor(t *testing.T) {
	types := filepath.Join(t.TempDir(), "vmlinux")
	if err := os.WriteFile(types, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const old = "kernel %s is too old: 6.1 or newer is needed"
	for _, c := range []struct{ release, types, want string }{
		{"5.15.0-91-generic", types, old},
		{"6.0.19", types, old},
		{"6.0.19", "", old},
		{"6.1.0-18-amd64", types, ""},
		{"6.1.0-18-amd64", types + ".gone", "kernel %s has no BTF (" + types + ".gone is missing): boot one built with CONFIG_DEBUG_INFO_BTF=y, as distributions' are"},
		{"6.18.44", types, ""},
		{"7.0", types, ""},
		{"new", types, `kernel version "%s" is not understood: expected integer`},
	} {
		got := ""
		if err := check(c.release, c.types); err != nil {
			got = err.Error()
		}
		want := strings.Replace(c.want, "%s", c.release, 1)
		if got != want {
			t.Errorf("kernel %s: %q, want %q", c.release, got, want)
		}
	}
}
