// Package privilege owns what each of Skep's programs may ask of the kernel: the capabilities that it keeps, and no others.
// The units in docs/systemd name the same ones, and tests hold both against running programs.
package privilege

import (
	"fmt"
	"strings"

	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// Set is what a program keeps, in the order in which systemd's units name it.
type Set []cap.Value

// Agent is what skep-agent itself uses. Its bounding set stays whole: containerd and the runtime, which it starts, give
// privileged containers every capability there is, and get theirs from the bounding set when they are executed.
var Agent = Set{
	cap.BPF, cap.PERFMON, // load and read the data plane's programs
	cap.NET_ADMIN,                     // interfaces, routes, tc and XDP
	cap.NET_RAW,                       // announce load-balancer addresses
	cap.NET_BIND_SERVICE,              // --listen below 1024
	cap.SYS_ADMIN,                     // mounts, namespaces, quotas
	cap.SYS_CHROOT,                    // enter a mount namespace
	cap.SYS_PTRACE,                    // namespaces and statistics of other users' processes
	cap.SYS_RESOURCE,                  // OOM scores below its own, rlimits
	cap.KILL,                          // processes of other users
	cap.CHOWN, cap.FOWNER, cap.FSETID, // volumes for the groups and users of pods
	cap.DAC_OVERRIDE,                    // the same, in folders that pods have closed
	cap.SETUID, cap.SETGID, cap.SETFCAP, // maps of user namespaces
}

// ControlPlane is what skepd uses. It starts no other program, so its unit bounds it to these, too.
var ControlPlane = Set{
	cap.NET_BIND_SERVICE, // --listen below 1024
	cap.DAC_OVERRIDE,     // --data-dir below a folder of another user's
}

// LogWriter is what the process that writes containers' logs uses.
var LogWriter = Set{
	cap.DAC_OVERRIDE, // --run-dir and --state-dir below a folder of another user's
}

// Keep gives up every capability of this process that is not in the set, in all of its threads. What the process does not
// have it is not given. Programs that it executes as root get theirs from the bounding set, which stays as it is.
func (s Set) Keep() error {
	have, keep := cap.GetProc(), cap.NewSet()
	for _, c := range s {
		held, err := have.GetFlag(cap.Permitted, c)
		if err != nil {
			return fmt.Errorf("read capability %s: %w", c, err)
		}
		if !held {
			continue
		}
		for _, flag := range []cap.Flag{cap.Permitted, cap.Effective} {
			if err := keep.SetFlag(flag, true, c); err != nil {
				return fmt.Errorf("keep capability %s: %w", c, err)
			}
		}
	}
	if err := keep.SetProc(); err != nil {
		return fmt.Errorf("give up capabilities other than %s: %w", s, err)
	}
	return nil
}

// String is how a unit file names the set: CAP_KILL CAP_CHOWN.
func (s Set) String() string {
	names := make([]string, len(s))
	for i, c := range s {
		names[i] = strings.ToUpper(c.String())
	}
	return strings.Join(names, " ")
}

// Mask is the set as /proc/PID/status shows it in CapEff.
func (s Set) Mask() (mask uint64) {
	for _, c := range s {
		mask |= 1 << uint(c)
	}
	return mask
}
