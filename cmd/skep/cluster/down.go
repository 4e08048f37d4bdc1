package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/skep-io/skep/agent/confine"
)

// Down removes the cluster: processes, cgroups, namespaces, links, mounts and
// the state folder. It works from the names on the machine as well as from the
// state, so it also removes the remains of a cluster whose folder is missing or
// whose start was interrupted. A cluster that does not exist is no error.
func Down(ctx context.Context, name, dir string, progress io.Writer) error {
	if os.Geteuid() != 0 {
		return errors.New("must be root to remove network namespaces and cgroups: run it with sudo")
	}
	c, err := newCluster(name, dir, progress)
	if err != nil {
		return err
	}
	unlock, err := lockDir(c.Dir)
	haveDir := err == nil
	if haveDir {
		defer unlock()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var outbound outboundState
	if haveDir {
		st, err := loadState(c.Dir)
		switch {
		case err == nil && st.Name != c.Name:
			return fmt.Errorf("%s holds cluster %q, not %q", c.Dir, st.Name, c.Name)
		case err == nil:
			outbound = st.Outbound
		case errors.Is(err, fs.ErrNotExist):
			// Not a cluster's folder unless it is empty, as an interrupted start leaves it.
			haveDir = isEmpty(c.Dir)
		}
	}
	removed, err := c.dismantle(ctx, outbound)
	if haveDir && err == nil {
		if err = removeStateDir(c.Dir); err == nil {
			removed = append(removed, c.Dir)
		}
	}
	if err != nil {
		return fmt.Errorf("cluster %q is not completely removed; run `skep down` again: %w", c.Name, err)
	}
	if len(removed) == 0 {
		c.say("No cluster %q: nothing to remove.", c.Name)
		return nil
	}
	c.say("Cluster %q is gone: removed %s.", c.Name, strings.Join(removed, ", "))
	return nil
}

// dismantle goes on after an error, to remove as much as it can.
func (c *Cluster) dismantle(ctx context.Context, outbound outboundState) (removed []string, err error) {
	var errs []error
	// Processes first, so that none makes new things while the old are removed.
	if c.cgroups.anywhere(clusterCgroup(c.Name)) {
		err := c.cgroups.remove(ctx, clusterCgroup(c.Name))
		errs = append(errs, err)
		if err == nil {
			removed = append(removed, "processes and cgroup "+clusterCgroup(c.Name))
		}
	}
	links, err := removeLinks(c.Name)
	errs = append(errs, err)
	namespaces, err := listNetns(netnsPattern(c.Name))
	errs = append(errs, err)
	for _, name := range namespaces {
		errs = append(errs, deleteNetns(name))
	}
	if len(namespaces) > 0 {
		removed = append(removed, count(len(namespaces), "network namespace"))
	}
	if links > 0 {
		removed = append(removed, "bridge "+bridgeName(c.Name)+" and its ports")
	}
	errs = append(errs, c.undoOutbound(outbound))
	return removed, errors.Join(errs...)
}

func (r cgroupRoots) anywhere(path string) bool {
	for _, root := range r.all() {
		if _, err := os.Stat(root + path); err == nil {
			return true
		}
	}
	return false
}

// removeStateDir detaches whatever an agent that ran outside its host, or a
// user, mounted below it, and enters no mount.
func removeStateDir(dir string) error {
	if err := confine.Empty(dir); err != nil {
		return err
	}
	return os.Remove(dir)
}

func isEmpty(dir string) bool {
	entries, err := os.ReadDir(dir)
	return err == nil && len(entries) == 0
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
