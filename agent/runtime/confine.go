package runtime

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/contrib/apparmor"
	"github.com/containerd/containerd/v2/contrib/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// ProfileKind is the source of a profile.
type ProfileKind int

// Unconfined is no profile, RuntimeDefault containerd's own, Localhost one of the node's.
const (
	Unconfined ProfileKind = iota
	RuntimeDefault
	Localhost
)

// Profile confines a container by seccomp or AppArmor.
type Profile struct {
	Kind ProfileKind
	// Name of a Localhost profile: for seccomp its path below SeccompDir, for AppArmor its name in the kernel.
	Name string
}

// CreateError says why this node cannot create a container as the pod asks, at present.
type CreateError struct{ Err error }

func (e *CreateError) Error() string { return e.Err.Error() }
func (e *CreateError) Unwrap() error { return e.Err }

func createErrorf(format string, args ...any) error { return &CreateError{fmt.Errorf(format, args...)} }

// SeccompDir is the folder of the node's seccomp profiles.
func (r *Runtime) SeccompDir() string { return filepath.Join(r.cfg.StateDir, "seccomp") }

// maxProfile bounds a profile's file.
const maxProfile = 4 << 20

// confine adds the profiles to a spec whose capabilities are known. A profile that is missing is an error: no container runs
// with less confinement than it asks for. As with containerd, seccomp does not confine privileged containers.
func (r *Runtime) confine(spec *specs.Spec, s Security) error {
	if err := r.setSeccomp(spec, s); err != nil {
		return err
	}
	switch s.AppArmor.Kind {
	case RuntimeDefault:
		if err := apparmor.LoadDefaultProfile(appArmorDefault); err != nil {
			return createErrorf("failed to load the default AppArmor profile: %w", err)
		}
		spec.Process.ApparmorProfile = appArmorDefault
	case Localhost:
		loaded, err := os.Open(appArmorProfiles)
		if err != nil {
			return createErrorf("loaded AppArmor profiles: %w", err)
		}
		defer loaded.Close()
		if !hasProfile(bufio.NewScanner(loaded), s.AppArmor.Name) {
			return createErrorf("apparmor profile not found %s", s.AppArmor.Name)
		}
		spec.Process.ApparmorProfile = s.AppArmor.Name
	}
	return nil
}

func (r *Runtime) setSeccomp(spec *specs.Spec, s Security) error {
	if s.Privileged {
		return nil
	}
	switch s.Seccomp.Kind {
	case RuntimeDefault:
		spec.Linux.Seccomp = seccomp.DefaultProfile(spec)
	case Localhost:
		profile, err := readSeccomp(r.SeccompDir(), s.Seccomp.Name)
		if err != nil {
			return err
		}
		spec.Linux.Seccomp = profile
	}
	return nil
}

func readSeccomp(dir, name string) (*specs.LinuxSeccomp, error) {
	path := filepath.Join(dir, name)
	if !filepath.IsLocal(name) {
		return nil, configErrorf("seccomp profile %q is not a path below %s", name, dir)
	}
	if info, err := os.Stat(path); err == nil && (!info.Mode().IsRegular() || info.Size() > maxProfile) {
		return nil, createErrorf("cannot load seccomp profile %q: not a file, or larger than %d bytes", path, maxProfile)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, createErrorf("cannot load seccomp profile %q: %w", path, err)
	}
	profile := &specs.LinuxSeccomp{}
	if err := json.Unmarshal(data, profile); err != nil {
		return nil, createErrorf("decoding seccomp profile failed %q: %w", path, err)
	}
	if profile.DefaultAction == "" {
		return nil, createErrorf("decoding seccomp profile failed %q: it has no defaultAction", path)
	}
	return profile, nil
}

const (
	appArmorDefault  = "cri-containerd.apparmor.d" // containerd's name: the host has one such profile
	appArmorProfiles = "/sys/kernel/security/apparmor/profiles"
	appArmorSwitch   = "/sys/module/apparmor/parameters/enabled"
	selinuxMount     = "/sys/fs/selinux/enforce"
)

// hasProfile reads lines of the form "name (mode)".
func hasProfile(lines *bufio.Scanner, name string) bool {
	for lines.Scan() {
		if i := strings.LastIndex(lines.Text(), " ("); i > 0 && lines.Text()[:i] == name {
			return true
		}
	}
	return false
}

// AppArmor returns an error if this host has no AppArmor, nil if it has.
func (r *Runtime) AppArmor() error { return appArmor(appArmorProfiles, appArmorSwitch) }

func appArmor(profiles, enabled string) error {
	data, err := os.ReadFile(enabled)
	if _, statErr := os.Stat(profiles); err != nil || statErr != nil || !strings.HasPrefix(string(data), "Y") {
		return errors.New("AppArmor is not enabled on the host")
	}
	return nil
}

// SELinux says whether SELinux is enabled on this host.
func (r *Runtime) SELinux() bool {
	_, err := os.Stat(selinuxMount)
	return err == nil
}
