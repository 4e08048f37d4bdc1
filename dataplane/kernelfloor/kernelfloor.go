// Package kernelfloor says which kernels are new enough. bpf/README.md lists the kernel that each feature needs.
package kernelfloor

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Major and Minor are the oldest kernel that has every helper, map and link type that the programs need.
const Major, Minor = 6, 1

// types is the file that has the kernel's types, if it was built with them.
const types = "/sys/kernel/btf/vmlinux"

// Check says in one line what the running kernel lacks, and what to do about it.
func Check() error {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return fmt.Errorf("read the kernel's version: %w", err)
	}
	return check(unix.ByteSliceToString(uts.Release[:]), types)
}

func check(release, types string) error {
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return fmt.Errorf("kernel version %q is not understood: %w", release, err)
	}
	if major < Major || (major == Major && minor < Minor) {
		return fmt.Errorf("kernel %s is too old: %d.%d or newer is needed", release, Major, Minor)
	}
	if _, err := os.Stat(types); err != nil {
		return fmt.Errorf("kernel %s has no BTF (%s is missing): boot one built with CONFIG_DEBUG_INFO_BTF=y, as distributions' are", release, types)
	}
	return nil
}
