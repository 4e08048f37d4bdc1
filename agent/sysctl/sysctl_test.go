package sysctl_test

import (
	"strings"
	"testing"

	"github.com/skep-io/skep/agent/sysctl"
)

// Which parameters a pod may set. kernel.core_pattern of the host, set by a pod, is root on the host (CVE-2022-0811).
func TestCheck(t *testing.T) {
	defaults, err := sysctl.NewAllowlist(nil)
	if err != nil {
		t.Fatal(err)
	}
	wider, err := sysctl.NewAllowlist([]string{"kernel.msg*", "net.core.somaxconn", "net/ipv4/conf/*", "fs.mqueue.*", "user.*"})
	if err != nil {
		t.Fatal(err)
	}
	node := sysctl.Pod{HostNetwork: true, HostIPC: true, HostUsers: true}
	usual := sysctl.Pod{HostUsers: true}
	for _, c := range []struct {
		list *sysctl.Allowlist
		name string
		pod  sysctl.Pod
		want string // empty: allowed
	}{
		{defaults, "kernel.core_pattern", usual, `"kernel.core_pattern" not allowlisted`},
		{defaults, "kernel/core_pattern", usual, `"kernel.core_pattern" not allowlisted`},
		{defaults, "kernel.core_pipe_limit", usual, `"kernel.core_pipe_limit" not allowlisted`},
		{wider, "kernel.core_pattern", usual, `"kernel.core_pattern" not allowlisted`},
		{defaults, "kernel.shm_rmid_forced", usual, ""},
		{defaults, "kernel/shm_rmid_forced", usual, ""},
		{defaults, "kernel.shm_rmid_forced", node, `"kernel.shm_rmid_forced" not allowed with host IPC enabled`},
		{defaults, "net.ipv4.ip_local_port_range", usual, ""},
		{defaults, "net/ipv4/ip_local_port_range", usual, ""},
		{defaults, "net.ipv4.ip_local_port_range", node, `"net.ipv4.ip_local_port_range" not allowed with host Net enabled`},
		{defaults, "kernel.msgmax", usual, `"kernel.msgmax" not allowlisted`},
		{wider, "kernel.msgmax", usual, ""},
		{wider, "kernel.msgmax", node, `"kernel.msgmax" not allowed with host IPC enabled`},
		{wider, "net.ipv4.conf.eno2/100.rp_filter", usual, ""},
		{wider, "net.core.somaxconn", usual, ""},
		{wider, "net.core.somaxconn_", usual, `"net.core.somaxconn_" not allowlisted`},
		{wider, "fs.mqueue.msg_max", usual, ""},
		{wider, "user.max_user_namespaces", usual, `"user.max_user_namespaces" not allowed with host User enabled`},
		{wider, "user.max_user_namespaces", sysctl.Pod{}, ""},
		// Names that contain more than a name.
		{wider, "net.ipv4.conf.../../kernel/core_pattern", usual, `"net.ipv4.conf.../../kernel/core_pattern" not allowlisted`},
		{wider, "net.ipv4.conf..kernel.core_pattern", usual, `"net.ipv4.conf..kernel.core_pattern" not allowlisted`},
		{wider, "kernel.msgmax+kernel.core_pattern=|/x", usual, `"kernel.msgmax+kernel.core_pattern=|/x" not allowlisted`},
		{wider, "kernel.msgmax=1\nkernel.core_pattern", usual, `"kernel.msgmax=1\nkernel.core_pattern" not allowlisted`},
		{wider, "/kernel.msgmax", usual, `"/kernel.msgmax" not allowlisted`},
		{wider, "", usual, `"" not allowlisted`},
	} {
		got := ""
		if err := c.list.Check(c.name, c.pod); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%q in %+v: %q, want %q", c.name, c.pod, got, c.want)
		}
	}
}

// Patterns that would allow what belongs to no namespace are refused when the agent starts.
func TestPatterns(t *testing.T) {
	for pattern, want := range map[string]string{
		"kernel.shm*":         "",
		"kernel.sem":          "",
		"net.*":               "",
		"net/ipv4/*":          "",
		"kernel.*":            `the sysctls "kernel." are not known to be namespaced`,
		"kernel.core_pattern": `the sysctls "kernel.core_pattern" are not known to be namespaced`,
		"fs.*":                `the sysctls "fs." are not known to be namespaced`,
		"*":                   `the sysctls "" are not known to be namespaced`,
		"net.*.x":             `sysctl "net.*.x" must have at most 253 characters and match regex `,
		"net..x":              `sysctl "net..x" must have at most 253 characters and match regex `,
		"":                    `sysctl "" must have at most 253 characters and match regex `,
	} {
		_, err := sysctl.NewAllowlist([]string{pattern})
		if (err == nil) != (want == "") || err != nil && !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v, want %q", pattern, err, want)
		}
	}
}

func TestPath(t *testing.T) {
	for name, want := range map[string]string{
		"kernel.shmmax":                    "kernel/shmmax",
		"kernel/shmmax":                    "kernel/shmmax",
		"net.ipv4.conf.eno2/100.rp_filter": "net/ipv4/conf/eno2.100/rp_filter",
		"net/ipv4/conf/eno2.100/rp_filter": "net/ipv4/conf/eno2.100/rp_filter",
		"net.ipv4.conf../../kernel":        "",
		"../kernel/core_pattern":           "",
		"Kernel.shmmax":                    "",
	} {
		got, err := sysctl.Path(name)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v, want %q", name, got, err, want)
		}
	}
}
