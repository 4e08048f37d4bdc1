package volume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/agent/bounded"
	"github.com/skep-io/skep/agent/confine"
)

// SubPath pins one path inside a volume for one mount of a container and returns the pin's path.
// The path is resolved beneath the volume's root, so a link that a container planted cannot lead
// out, and the file that it named then is mounted, even if the names change afterwards
// (CVE-2017-1002101, CVE-2021-25741). It is not opened: it may be a FIFO or a device. Errors do not
// describe the file, which would reveal the node's files.
func (v *Volumes) SubPath(ctx context.Context, podUID, volume, container string, index int, root, sub string) (string, error) {
	if filepath.IsAbs(sub) {
		return "", fmt.Errorf("error SubPath `%s` must not be an absolute path", sub)
	}
	if slices.Contains(strings.Split(sub, "/"), "..") {
		return "", fmt.Errorf("unable to provision SubPath `%s`: must not contain '..'", sub)
	}
	failed := func(err error) error {
		slog.Warn("subPath not mounted", "pod", podUID, "container", container, "volume", volume, "path", sub, "err", err)
		return fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q", volume, container)
	}
	found, err := v.pinSubPath(ctx, root, filepath.Clean(sub), volume)
	if late := (*bounded.TimeoutError)(nil); errors.As(err, &late) {
		return "", fmt.Errorf("subPath for volumeMount %q of container %q: %w", volume, container, err)
	}
	if err != nil {
		return "", failed(err)
	}
	pinned, st := found.file, found.stat
	defer pinned.Close()
	target := filepath.Join(v.podDir(podUID), "subpaths", volume, container, strconv.Itoa(index))
	if err := makeTarget(target, st.Mode&unix.S_IFMT == unix.S_IFDIR); err != nil {
		return "", failed(err)
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", pinned.Fd()), target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", failed(err)
	}
	return target, nil
}

// pin is a path that is held open.
type pin struct {
	file *os.File
	stat unix.Stat_t
}

// pinSubPath opens the path, which may be on a mount whose server does not answer.
func (v *Volumes) pinSubPath(ctx context.Context, root, sub, volume string) (*pin, error) {
	return bounded.Do(ctx, &v.calls, filepath.Clean(root), fmt.Sprintf("volume %q", volume), v.Patience, func() (*pin, error) {
		file, err := confine.PinMakingDirs(root, sub)
		if err != nil {
			return nil, err
		}
		p := &pin{file: file}
		if err := unix.Fstat(int(file.Fd()), &p.stat); err != nil {
			file.Close()
			return nil, err
		}
		return p, nil
	}, func(p *pin) { p.file.Close() })
}

// makeTarget makes an empty mount point of the right kind, without what an
// earlier start of the container mounted there.
func makeTarget(path string, dir bool) error {
	if err := confine.RemoveAll(path); err != nil {
		return err
	}
	if dir {
		return os.MkdirAll(path, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}
