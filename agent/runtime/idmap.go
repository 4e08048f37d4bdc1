package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Folders of the node in a container with a user namespace are mounted with IDs mapped: files of the node's root on disk belong
// to the container's root in the container. The OCI runtime and the image store need no support for this (runc has it from 1.2
// on, containerd from 2.0): each folder is mounted, mapped, below the run folder, and mounts that they make from there are
// mapped as well. The mapped mounts are removed once the container's process exists.
type idmapped struct {
	dir    string
	userns *os.File
	count  int
}

// mapIDs maps the root file system and the bind mounts of a spec to the pod's users. end must be called also after an error.
func (r *Runtime) mapIDs(c *Container, spec *specs.Spec, rootfs []mount.Mount, s Sandbox) (_ []mount.Mount, end func(), err error) {
	m := &idmapped{dir: filepath.Join(r.cfg.RunDir, "idmap", c.ID[:12])}
	end = func() { m.end() }
	if m.userns, err = os.Open(s.UserNS); err != nil {
		return nil, end, fmt.Errorf("user namespace: %w", err)
	}
	if err := os.MkdirAll(m.dir, 0o711); err != nil {
		return nil, end, fmt.Errorf("mapped mounts: %w", err)
	}
	for i := range spec.Mounts {
		// The shared memory already has the pod's IDs.
		if b := &spec.Mounts[i]; b.Type == "bind" && b.Source != s.Shm {
			if b.Source, err = m.bind(b.Source); err != nil {
				return nil, end, createErrorf("mount at %s with the IDs of the pod's user namespace: %w", b.Destination, err)
			}
		}
	}
	if rootfs, err = m.root(rootfs, s.Users); err != nil {
		return nil, end, createErrorf("root file system with the IDs of the pod's user namespace: %w", err)
	}
	spec.Linux.UIDMappings, spec.Linux.GIDMappings = s.Users.mapping(), s.Users.mapping()
	return rootfs, end, nil
}

// bind mounts source, and all mounts below it, with the IDs of source mapped, those of mounts below it not, and returns the
// path.
func (m *idmapped) bind(source string) (string, error) {
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return "", fmt.Errorf("clone the mount of %s: %w", source, err)
	}
	defer unix.Close(tree)
	attributes := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(m.userns.Fd())}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attributes); err != nil {
		return "", fmt.Errorf("the file system of %s cannot map IDs: %w", source, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(tree, &st); err != nil {
		return "", fmt.Errorf("%s: %w", source, err)
	}
	target := filepath.Join(m.dir, fmt.Sprint(m.count))
	m.count++
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = os.Mkdir(target, 0o711)
	} else {
		err = os.WriteFile(target, nil, 0o600)
	}
	if err != nil {
		return "", err
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return "", fmt.Errorf("mount %s at %s: %w", source, target, err)
	}
	return target, nil
}

// root maps the layers of the image, which other containers share, and makes the container's root the owner of its own layer,
// which only has a root folder.
func (m *idmapped) root(mounts []mount.Mount, users Users) ([]mount.Mount, error) {
	if len(mounts) != 1 {
		return nil, fmt.Errorf("%d mounts, not one", len(mounts))
	}
	root := mounts[0]
	root.Options = append([]string(nil), root.Options...)
	if root.Type == "bind" { // of an image without layers
		return []mount.Mount{root}, shiftOwner(root.Source, users)
	}
	if root.Type != "overlay" {
		return nil, fmt.Errorf("a snapshotter that mounts %s: only overlay is known to map IDs", root.Type)
	}
	for i, option := range root.Options {
		name, value, _ := strings.Cut(option, "=")
		switch name {
		case "lowerdir":
			lower := strings.Split(value, ":")
			for j := range lower {
				var err error
				if lower[j], err = m.bind(lower[j]); err != nil {
					return nil, err
				}
			}
			root.Options[i] = name + "=" + strings.Join(lower, ":")
		case "upperdir":
			if err := shiftOwner(value, users); err != nil {
				return nil, err
			}
		}
	}
	return []mount.Mount{root}, nil
}

func shiftOwner(path string, users Users) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if st.Uid >= idsPerPod || st.Gid >= idsPerPod {
		return fmt.Errorf("%s belongs to %d:%d, which a pod's user namespace has not", path, st.Uid, st.Gid)
	}
	if err := unix.Lchown(path, int(uint32(users)+st.Uid), int(uint32(users)+st.Gid)); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// end removes the mapped mounts. The container's mounts made from them stay in its mount namespace.
func (m *idmapped) end() {
	if m.userns != nil {
		m.userns.Close()
	}
	removeMapped(m.dir)
}

// removeMapped never enters a mount: a folder that stays mounted is not removed.
func removeMapped(dir string) {
	for _, name := range pinsIn(dir) {
		path := filepath.Join(dir, name)
		if unmountAll(path) == nil {
			_ = os.Remove(path)
		}
	}
	_ = os.Remove(dir)
}

// removeMappings removes the mapped mounts of an agent that ended while it created a container.
func (r *Runtime) removeMappings() {
	dir := filepath.Join(r.cfg.RunDir, "idmap")
	for _, name := range pinsIn(dir) {
		removeMapped(filepath.Join(dir, name))
	}
}

// mapsIDs says whether folders of this host can be mounted with their IDs mapped.
func (r *Runtime) mapsIDs() error {
	dir := filepath.Join(r.cfg.RunDir, "idmap", "probe")
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	defer removeMapped(dir)
	mapping := fmt.Sprintf("0:%d:%d", idsPerPod, idsPerPod)
	userns, err := mount.GetUsernsFD(mapping, mapping)
	if err != nil {
		return err
	}
	defer userns.Close()
	if err := os.MkdirAll(r.cfg.StateDir, 0o711); err != nil {
		return err
	}
	m := &idmapped{dir: dir, userns: userns}
	_, err = m.bind(r.cfg.StateDir)
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%w: an ext4, xfs, btrfs or tmpfs is needed, and Linux 5.12", err)
	}
	return err
}
