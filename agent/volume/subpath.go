package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// SubPath pins one path inside a volume for one mount of a container and
// returns where. The path is opened beneath the volume's root, so a link in
// it that a container planted cannot lead out, and what was opened is what
// gets mounted, whatever happens to the names afterwards.
func (v *Volumes) SubPath(podUID, volume, container string, index int, root, sub string) (string, error) {
	clean, err := safePath(sub)
	if err != nil {
		return "", err
	}
	beneath, err := os.OpenRoot(root)
	if err != nil {
		return "", fmt.Errorf("volume %s: %w", volume, err)
	}
	defer beneath.Close()
	f, err := beneath.Open(clean)
	if errors.Is(err, os.ErrNotExist) {
		if err := beneath.MkdirAll(clean, 0o777); err != nil {
			return "", fmt.Errorf("failed to create subPath directory for volumeMount %q of container %q: %w", volume, container, err)
		}
		f, err = beneath.Open(clean)
	}
	if err != nil {
		return "", fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", volume, container, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	target := filepath.Join(v.podDir(podUID), "subpaths", volume, container, strconv.Itoa(index))
	if err := makeTarget(target, info.IsDir()); err != nil {
		return "", err
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", fmt.Errorf("pin subPath %s: %w", sub, err)
	}
	return target, nil
}

// makeTarget makes an empty mount point of the right kind, without what an
// earlier start of the container mounted there.
func makeTarget(path string, dir bool) error {
	for unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil {
	}
	_ = os.Remove(path)
	if dir {
		return os.MkdirAll(path, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}
