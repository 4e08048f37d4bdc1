// Package sysctl decides which kernel parameters a pod may set, as kubelet does: parameters of the pod's own namespaces, if
// they are safe or the administrator has allowed them by name or prefix. It never writes any.
package sysctl

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/version"
	nodesysctl "k8s.io/component-helpers/node/util/sysctl"
)

// Forbidden is the reason of a pod that sets a parameter that is not allowed.
const Forbidden = "SysctlForbidden"

// The form of names, as in the API: without empty segments, so that a name cannot lead to a parent folder.
const (
	maxName   = 253
	segment   = `[a-z0-9]([-_a-z0-9]*[a-z0-9])?`
	name      = `(` + segment + `[\./])*` + segment
	pattern   = `(` + segment + `[\./])*([a-z0-9][-_a-z0-9]*)?[a-z0-9*]`
	separator = "./"
)

var (
	nameForm    = regexp.MustCompile("^" + name + "$")
	patternForm = regexp.MustCompile("^" + pattern + "$")
)

// safe parameters affect neither the node nor other pods, from the kernel version on in which they belong to the network
// namespace.
var safe = []struct{ name, kernel string }{
	{"kernel.shm_rmid_forced", ""},
	{"net.ipv4.ip_local_port_range", ""},
	{"net.ipv4.tcp_syncookies", ""},
	{"net.ipv4.ping_group_range", ""},
	{"net.ipv4.ip_unprivileged_port_start", ""},
	{"net.ipv4.ip_local_reserved_ports", "3.16"},
	{"net.ipv4.tcp_keepalive_time", "4.5"},
	{"net.ipv4.tcp_fin_timeout", "4.6"},
	{"net.ipv4.tcp_keepalive_intvl", "4.5"},
	{"net.ipv4.tcp_keepalive_probes", "4.5"},
	{"net.ipv4.tcp_rmem", "4.15"},
	{"net.ipv4.tcp_wmem", "4.15"},
	{"net.ipv4.tcp_slow_start_after_idle", "4.15"},
	{"net.ipv4.tcp_notsent_lowat", "4.6"},
}

// Namespace is the kind of namespace that a parameter belongs to.
type Namespace = nodesysctl.Namespace

// The kinds of namespaces.
const (
	None = nodesysctl.UnknownNamespace
	IPC  = nodesysctl.IPCNamespace
	Net  = nodesysctl.NetNamespace
	UTS  = nodesysctl.UTSNamespace
	User = nodesysctl.UserNamespace
)

// Normalize turns the form with slashes into the one with dots.
func Normalize(name string) string { return nodesysctl.NormalizeName(name) }

// NamespaceOf says which namespace the named parameter, or all parameters of a pattern, belong to.
func NamespaceOf(name string) Namespace {
	ns, _, _ := nodesysctl.GetNamespace(name)
	return ns
}

// Path is the parameter's file below /proc/sys. A name in another form than the API's is refused: it could lead elsewhere.
func Path(name string) (string, error) {
	if len(name) > maxName || !nameForm.MatchString(name) {
		return "", fmt.Errorf("sysctl %q: not a name of a kernel parameter", name)
	}
	swap := func(r rune) rune {
		if i := strings.IndexRune(separator, r); i >= 0 {
			return rune(separator[1-i])
		}
		return r
	}
	return strings.Map(swap, Normalize(name)), nil
}

// Pod says which of the node's namespaces a pod uses.
type Pod struct{ HostNetwork, HostIPC, HostUsers bool }

// Allowlist are the parameters that pods of a node may set.
type Allowlist struct {
	names    map[string]Namespace
	prefixes map[string]Namespace
}

// NewAllowlist returns the safe parameters and those of the patterns: names, or prefixes that end in *.
func NewAllowlist(patterns []string) (*Allowlist, error) {
	a := &Allowlist{names: map[string]Namespace{}, prefixes: map[string]Namespace{}}
	kernel, err := kernelVersion()
	if err != nil {
		return nil, err
	}
	for _, s := range safe {
		if s.kernel == "" || kernel.AtLeast(version.MustParseGeneric(s.kernel)) {
			a.names[s.name] = NamespaceOf(s.name)
		}
	}
	for _, p := range patterns {
		if len(p) > maxName || !patternForm.MatchString(p) {
			return nil, fmt.Errorf("sysctl %q must have at most %d characters and match regex %s", p, maxName, pattern)
		}
		ns, text, isPrefix := nodesysctl.GetNamespace(p)
		switch {
		case ns == None:
			return nil, fmt.Errorf("the sysctls %q are not known to be namespaced", text)
		case isPrefix:
			a.prefixes[text] = ns
		default:
			a.names[text] = ns
		}
	}
	return a, nil
}

// Check says why the pod may not set the parameter, in kubelet's words. A nil list allows nothing.
func (a *Allowlist) Check(name string, pod Pod) error {
	if _, err := Path(name); err != nil || a == nil {
		return fmt.Errorf("%q not allowlisted", name)
	}
	name = Normalize(name)
	ns, ok := a.names[name]
	for prefix, of := range a.prefixes {
		if !ok && strings.HasPrefix(name, prefix) {
			ns, ok = of, true
		}
	}
	switch {
	case !ok:
		return fmt.Errorf("%q not allowlisted", name)
	case ns == IPC && pod.HostIPC, ns == Net && pod.HostNetwork, ns == User && pod.HostUsers:
		return fmt.Errorf("%q not allowed with host %s enabled", name, ns)
	}
	return nil
}

func kernelVersion() (*version.Version, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return nil, fmt.Errorf("kernel's version: %w", err)
	}
	v, err := version.ParseGeneric(unix.ByteSliceToString(uts.Release[:]))
	if err != nil {
		return nil, errors.New("kernel's version cannot be read from " + unix.ByteSliceToString(uts.Release[:]))
	}
	return v, nil
}
