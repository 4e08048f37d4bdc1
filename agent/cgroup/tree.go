package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Root is where hierarchies are mounted.
const Root = "/sys/fs/cgroup"

// controller is a cgroup controller whose limits are used.
type controller int

const (
	cpu controller = iota
	memory
	pids
	controllers
)

var controllerNames = [controllers]string{cpu: "cpu", memory: "memory", pids: "pids"}

// Tree has the folders of one agent in all hierarchies.
type Tree struct {
	root, parent string
	dirs         [controllers]string // mount point of the hierarchy that has the controller; "" where none has
	unified      bool                // the only hierarchy is v2
}

// Open detects the hierarchies mounted below root. Parent is the agent's cgroup, a path below each of them; nothing is created.
func Open(root, parent string) *Tree {
	t := &Tree{root: root, parent: filepath.Join("/", parent), unified: exists(filepath.Join(root, "cgroup.controllers"))}
	for c, name := range controllerNames {
		legacy := filepath.Join(root, name)
		switch {
		case t.unified:
			if available(root, name) {
				t.dirs[c] = root
			}
		case exists(filepath.Join(legacy, "cgroup.procs")):
			t.dirs[c] = legacy
		case available(filepath.Join(root, "unified"), name):
			t.dirs[c] = filepath.Join(root, "unified")
		}
	}
	return t
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// available says whether a v2 folder can delegate a controller.
func available(dir, name string) bool {
	list, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	return err == nil && slices.Contains(strings.Fields(string(list)), name)
}

// isUnified says whether the controller is one of the v2 hierarchy.
func (t *Tree) isUnified(c controller) bool {
	return t.unified || t.dirs[c] == filepath.Join(t.root, "unified")
}

// Unified says whether v2 is the host's only hierarchy.
func (t *Tree) Unified() bool { return t.unified }

// hierarchies are all mount points, also those without a controller that is used here: runc makes containers' folders in each.
func (t *Tree) hierarchies() []string {
	if t.unified {
		return []string{t.root}
	}
	entries, _ := os.ReadDir(t.root)
	var dirs []string
	for _, e := range entries {
		if e.IsDir() {
			dirs = append(dirs, filepath.Join(t.root, e.Name()))
		}
	}
	return dirs
}

// Kubepods is the cgroup of all pods.
func (t *Tree) Kubepods() string { return filepath.Join(t.parent, "kubepods") }

// classPath is the cgroup of a class' pods. Guaranteed pods are not below another class.
func (t *Tree) classPath(class corev1.PodQOSClass) string {
	switch class {
	case corev1.PodQOSBurstable, corev1.PodQOSBestEffort:
		return filepath.Join(t.Kubepods(), strings.ToLower(string(class)))
	}
	return t.Kubepods()
}

const podPrefix = "pod"

// earlier is the folder of all pods of older agents, which had no classes. Pods in it stay there until they end.
func (t *Tree) earlier() string { return filepath.Join(t.parent, "pods") }

// candidates are the paths that a pod may have.
func (t *Tree) candidates(uid string) []string {
	paths := []string{filepath.Join(t.earlier(), uid)}
	for _, class := range []corev1.PodQOSClass{corev1.PodQOSGuaranteed, corev1.PodQOSBurstable, corev1.PodQOSBestEffort} {
		paths = append(paths, filepath.Join(t.classPath(class), podPrefix+uid))
	}
	return paths
}

// PodPath is the pod's cgroup, the same path in every hierarchy: the existing one, else the one by its class.
func (t *Tree) PodPath(uid string, class corev1.PodQOSClass) string {
	for _, path := range t.candidates(uid) {
		for _, root := range t.hierarchies() {
			if exists(filepath.Join(root, path)) {
				return path
			}
		}
	}
	return filepath.Join(t.classPath(class), podPrefix+uid)
}

// Pods lists the UIDs that have a folder in any hierarchy.
func (t *Tree) Pods() []string {
	var uids []string
	for _, root := range t.hierarchies() {
		for _, parent := range []string{t.earlier(), t.Kubepods(), t.classPath(corev1.PodQOSBurstable), t.classPath(corev1.PodQOSBestEffort)} {
			entries, _ := os.ReadDir(filepath.Join(root, parent))
			for _, e := range entries {
				uid, named := strings.CutPrefix(e.Name(), podPrefix)
				if e.IsDir() && (named || parent == t.earlier()) {
					if parent == t.earlier() {
						uid = e.Name()
					}
					uids = append(uids, uid)
				}
			}
		}
	}
	slices.Sort(uids)
	return slices.Compact(uids)
}

// make makes a folder in every hierarchy with a controller that is used here. In v2 its parents delegate their controllers.
func (t *Tree) make(path string) error {
	for _, root := range slices.Compact(slices.Sorted(slices.Values(t.dirs[:]))) {
		if root == "" {
			continue
		}
		dir := root
		for _, part := range strings.Split(strings.Trim(path, "/"), "/") {
			if err := delegate(dir); err != nil {
				return err
			}
			dir = filepath.Join(dir, part)
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("cgroup: %w", err)
			}
		}
	}
	return nil
}

// delegate enables, for the children of a v2 folder, those controllers that limit containers.
func delegate(dir string) error {
	list, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return nil // v1
	}
	control := filepath.Join(dir, "cgroup.subtree_control")
	data, err := os.ReadFile(control)
	if err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	on := strings.Fields(string(data))
	for _, name := range strings.Fields(string(list)) {
		switch name {
		case "cpu", "cpuset", "io", "memory", "pids", "hugetlb":
			if slices.Contains(on, name) {
				continue
			}
			if err := write(control, "+"+name); err != nil {
				return fmt.Errorf("cgroup: enable the controller %s for child cgroups: %w; is there a process in %s itself?", name, err, dir)
			}
		}
	}
	return nil
}

// write writes a kernel file in one write.
func write(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
