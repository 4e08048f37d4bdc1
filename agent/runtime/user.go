package runtime

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// resolveUser decides user and groups from the pod and the image. Names are
// looked up in the image's own passwd and group files.
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
	groups := append([]uint32{user.GID}, user.AdditionalGids...)
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
		root, err := os.OpenRoot(path) // links that lead out of the image fail
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
	r.images.users[key] = user
	r.images.mu.Unlock()
	return user, nil
}

// userFrom resolves "", "user", "uid", "user:group" and their mixtures.
func userFrom(root *os.Root, spec string) (specs.User, error) {
	userPart, groupPart, _ := strings.Cut(spec, ":")
	userPart = firstOf(userPart, "0")
	var user specs.User
	uid, numeric := parseID(userPart)
	found := false
	var login string
	eachLine(root, "etc/passwd", func(f []string) bool {
		if len(f) < 4 {
			return true
		}
		id, ok := parseID(f[2])
		if !ok || (numeric && id != uid) || (!numeric && f[0] != userPart) {
			return true
		}
		gid, _ := parseID(f[3])
		user.UID, user.GID, login, found = id, gid, f[0], true
		return false
	})
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
	eachLine(root, "etc/group", func(f []string) bool {
		if len(f) < 4 {
			return true
		}
		id, ok := parseID(f[2])
		if !ok {
			return true
		}
		if !groupFound && f[0] == groupPart {
			user.GID, groupFound = id, true
		}
		for _, member := range strings.Split(f[3], ",") {
			if login != "" && member == login {
				user.AdditionalGids = append(user.AdditionalGids, id)
			}
		}
		return true
	})
	if !groupFound {
		return user, configErrorf("unable to find group %s: no matching entries in group file", groupPart)
	}
	return user, nil
}

func parseID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil
}

// maxUserFile bounds what an image can make us read.
const maxUserFile = 4 << 20

func eachLine(root *os.Root, name string, f func(fields []string) bool) {
	file, err := root.Open(name)
	if err != nil {
		return // images need not have one
	}
	defer file.Close()
	for scan := bufio.NewScanner(io.LimitReader(file, maxUserFile)); scan.Scan(); {
		if !f(strings.Split(scan.Text(), ":")) {
			return
		}
	}
}

// String makes test failures readable.
func (p *Prepared) String() string { return fmt.Sprintf("%s of %s", p.ID, p.image.Name) }
