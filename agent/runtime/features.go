package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os/exec"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Features are optional features of this host's kernel and OCI runtime.
type Features struct {
	RecursiveReadOnly bool // mounts, with all that is mounted below them
	UserNamespaces    bool // pods with IDs of their own
}

// Features determines them once.
func (r *Runtime) Features() Features {
	r.featuresOnce.Do(func() {
		r.features.RecursiveReadOnly = kernelSetsMountAttributes() && slices.Contains(ociMountOptions(), "rro")
		err := r.mapsIDs()
		if r.features.UserNamespaces = err == nil; err != nil {
			slog.Warn("pods with a user namespace of their own are refused", "err", err)
		}
	})
	return r.features
}

// kernelSetsMountAttributes says whether the kernel has mount_setattr (Linux 5.12).
func kernelSetsMountAttributes() bool {
	return !errors.Is(unix.MountSetattr(-1, "", 0, &unix.MountAttr{}), unix.ENOSYS)
}

// ociMountOptions are the mount options that the OCI runtime reports to support.
func ociMountOptions() []string {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	output, err := exec.CommandContext(ctx, "runc", "features").Output()
	var features struct {
		MountOptions []string `json:"mountOptions"`
	}
	if err == nil {
		err = json.Unmarshal(output, &features)
	}
	if err != nil {
		slog.Warn("runc does not report its features; recursive read-only mounts are refused", "err", err)
	}
	return features.MountOptions
}
