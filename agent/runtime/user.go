package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/agent/confine"
)

// resolveUser determines user and groups from the pod and the image. Names are looked up in the
// image's own passwd and group files.
func (r *Runtime) resolveUser(s Security, p *Prepared) (specs.User, error) {
	name := p.image.config.User
	if s.RunAsUser != nil {
		name = strconv.FormatInt(*s.RunAsUser, 10)
		if s.RunAsGroup == nil {
			// The image's group belongs to the image's user only.
			name, _, _ = strings.Cut(name, ":")
		}
	}
	if s.RunAsGroup != nil {
		user, _, _ := strings.Cut(name, ":")
		name = firstOf(user, "0") + ":" + strconv.FormatInt(*s.RunAsGroup, 10)
	}
	user, err := r.lookupUser(name, p)
	if err != nil {
		return specs.User{}, err
	}
	if s.RunAsNonRoot && user.UID == 0 {
		if s.RunAsUser != nil {
			return specs.User{}, configErrorf("container's runAsUser breaks non-root policy")
		}
		return specs.User{}, configErrorf("container has runAsNonRoot and image will run as root")
	}
	groups := []uint32{user.GID}
	if !s.StrictGroups {
		groups = append(groups, user.AdditionalGids...)
	}
	for _, gid := range s.SupplementalGroups {
		groups = append(groups, uint32(gid))
	}
	user.AdditionalGids = unique(groups)
	return user, nil
}

func unique(list []uint32) []uint32 {
	seen := map[uint32]bool{}
	var out []uint32
	for _, v := range list {
		if !seen[v] {
			seen[v] = true
			out = append(out, v)
		}
	}
	return out
}

// lookupUser is cached by image content: the file system is mounted once per
// image and user, not once per container.
func (r *Runtime) lookupUser(name string, p *Prepared) (specs.User, error) {
	key := p.image.chainID + " " + name
	r.images.mu.Lock()
	user, ok := r.images.users[key]
	r.images.mu.Unlock()
	if ok {
		return user, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	err := mount.WithReadonlyTempMount(ctx, p.mounts, func(path string) error {
		root, err := confine.Open(path)
		if err != nil {
			return err
		}
		defer root.Close()
		user, err = userFrom(root, name)
		return err
	})
	if err != nil {
		return specs.User{}, err
	}
	r.images.mu.Lock()
	defer r.images.mu.Unlock()
	if len(r.images.users) >= maxUsers { // pods can choose any names
		clear(r.images.users)
	}
	r.images.users[key] = user
	return user, nil
}

const (
	// maxUserFile bounds a user file of an image.
	maxUserFile = 4 << 20
	// maxGroups is the kernel's NGROUPS_MAX.
	maxGroups = 65536
	// maxUsers bounds the cache of users.
	maxUsers = 4096
)

// userFrom resolves "", "user", "uid", "user:group" and combinations of these.
func userFrom(root *confine.Dir, spec string) (specs.User, error) {
	passwd, err := readUserFile(root, "etc/passwd")
	if err != nil {
		return specs.User{}, err
	}
	group, err := readUserFile(root, "etc/group")
	if err != nil {
		return specs.User{}, err
	}
	return parseUser(passwd, group, spec)
}

// readUserFile reads a file that an image may lack, or may have as something else than a regular
// file.
func readUserFile(root *confine.Dir, name string) (string, error) {
	f, err := root.OpenInRoot(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return "", nil
	}
	if err != nil {
		return "", configErrorf("/%s of the image: %w", name, errors.Unwrap(err))
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxUserFile+1))
	if err != nil {
		return "", fmt.Errorf("/%s of the image: %w", name, err)
	}
	if len(data) > maxUserFile {
		return "", configErrorf("/%s of the image is larger than %d bytes", name, maxUserFile)
	}
	return string(data), nil
}

func parseUser(passwd, group, spec string) (specs.User, error) {
	userPart, groupPart, _ := strings.Cut(spec, ":")
	userPart = firstOf(userPart, "0")
	var user specs.User
	uid, numeric := parseID(userPart)
	found := false
	var login string
	for f := range entries(passwd) {
		id, ok := parseID(f[2])
		if !ok || (numeric && id != uid) || (!numeric && f[0] != userPart) {
			continue
		}
		gid, _ := parseID(f[3])
		user.UID, user.GID, login, found = id, gid, f[0], true
		break
	}
	if !found {
		if !numeric {
			return user, configErrorf("unable to find user %s: no matching entries in passwd file", userPart)
		}
		user.UID = uid
	}
	gid, numericGroup := parseID(groupPart)
	groupFound := groupPart == "" || numericGroup
	if numericGroup {
		user.GID = gid
	}
	for f := range entries(group) {
		id, ok := parseID(f[2])
		if !ok {
			continue
		}
		if !groupFound && f[0] == groupPart {
			user.GID, groupFound = id, true
		}
		if login != "" && slices.Contains(strings.Split(f[3], ","), login) {
			user.AdditionalGids = append(user.AdditionalGids, id)
		}
	}
	if !groupFound {
		return user, configErrorf("unable to find group %s: no matching entries in group file", groupPart)
	}
	if user.AdditionalGids = unique(user.AdditionalGids); len(user.AdditionalGids) > maxGroups {
		return user, configErrorf("user %s is in %d groups, more than the %d that a process can have", userPart, len(user.AdditionalGids), maxGroups)
	}
	return user, nil
}

func parseID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil
}

// entries are the lines of a user file that have at least four fields.
func entries(file string) iter.Seq[[]string] {
	return func(yield func([]string) bool) {
		for line := range strings.Lines(file) {
			fields := strings.SplitN(strings.TrimRight(line, "\r\n"), ":", 8)
			if len(fields) >= 4 && !yield(fields) {
				return
			}
		}
	}
}

// String makes test failures readable.
func (p *Prepared) String() string { return fmt.Sprintf("%s of %s", p.ID, p.image.Name) }
