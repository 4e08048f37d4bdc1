// Package volume makes a pod's volumes on the node: emptyDir, hostPath,
// configMap, secret, downwardAPI and projected ones.
//
// It owns <pod folder>/volumes and <pod folder>/subpaths, the mounts in them, the records of configuration
// volumes' content, and the removal of all. It never reads the API server itself: objects come from the
// interface Objects. It never trusts a volume's content: containers write there. Folders and mounts outlive
// the agent; setting up a volume again only replaces stale content.
package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/agent/bounded"
	"github.com/skep-io/skep/agent/confine"
)

// Objects returns configuration objects, as new as possible. A missing one is an apierrors NotFound.
type Objects interface {
	ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
}

// Volumes makes and removes the volumes of all pods on the node.
type Volumes struct {
	podDir      func(podUID string) string
	recordDir   func(podUID string) string
	objects     Objects
	allocatable func() corev1.ResourceList
	memoryLimit func(*corev1.Pod) int64
	calls       bounded.Calls // to paths of the node

	// Patience is the time limit of a call to a path of the node.
	Patience time.Duration
	// Made, if set, is called for each new emptyDir on disk while it is still empty and not used.
	Made func(pod *corev1.Pod, dir string)
}

// defaultPatience is about how long the kubelet waits for a pod's volumes.
const defaultPatience = 2 * time.Minute

// New returns the volumes of pods whose folders podDir names. recordDir names folders for records of a
// pod's volumes, which no container may see and which may be lost at a reboot. allocatable is what unset
// limits show as in the downward API. memoryLimit is a pod's memory limit, 0 for none.
func New(podDir, recordDir func(podUID string) string, objects Objects, allocatable func() corev1.ResourceList, memoryLimit func(*corev1.Pod) int64) *Volumes {
	return &Volumes{
		podDir: podDir, recordDir: recordDir, objects: objects, allocatable: allocatable, memoryLimit: memoryLimit, Patience: defaultPatience,
	}
}

// ReadOnly says whether containers may only read the volume, whatever their mounts say: true for volumes
// that the agent updates (CVE-2017-1002102).
func ReadOnly(vol *corev1.Volume) bool {
	return vol.ConfigMap != nil || vol.Secret != nil || vol.DownwardAPI != nil || vol.Projected != nil
}

// Error says which volume could not be made.
type Error struct {
	Volume string
	Err    error
}

func (e *Error) Error() string {
	return fmt.Sprintf("MountVolume.SetUp failed for volume %q : %v", e.Volume, e.Err)
}
func (e *Error) Unwrap() error { return e.Err }

// ErrNoTokens is the warning about a projected service account token.
var ErrNoTokens = errors.New("service account tokens are not issued by this cluster; the file is left out")

// SetUp makes every volume of the pod and returns their paths. Called again, it updates the content of
// configuration volumes, each in one rename. Warnings are about parts that are omitted on purpose.
func (v *Volumes) SetUp(ctx context.Context, pod *corev1.Pod) (paths map[string]string, warnings []error, err error) {
	paths = make(map[string]string, len(pod.Spec.Volumes))
	type result struct {
		path        string
		warned, err error
	}
	results := make([]result, len(pod.Spec.Volumes))
	var working sync.WaitGroup // concurrently: one that does not answer does not delay the others
	for i := range pod.Spec.Volumes {
		working.Go(func() {
			r := &results[i]
			r.path, r.warned, r.err = v.setUpOne(ctx, pod, &pod.Spec.Volumes[i])
		})
	}
	working.Wait()
	var failures []error
	for i, r := range results {
		name := pod.Spec.Volumes[i].Name
		if r.err != nil {
			failures = append(failures, &Error{name, r.err})
			continue
		}
		if r.warned != nil {
			warnings = append(warnings, &Error{name, r.warned})
		}
		paths[name] = r.path
	}
	return paths, warnings, errors.Join(failures...)
}

// Path is the path of a volume that is made on the node.
func (v *Volumes) Path(podUID, name string) string {
	return filepath.Join(v.podDir(podUID), "volumes", name)
}

func (v *Volumes) setUpOne(ctx context.Context, pod *corev1.Pod, vol *corev1.Volume) (path string, warning, err error) {
	path = v.Path(string(pod.UID), vol.Name)
	switch {
	case vol.HostPath != nil:
		if vol.HostPath.Type == nil || *vol.HostPath.Type == corev1.HostPathUnset {
			return vol.HostPath.Path, nil, nil
		}
		return vol.HostPath.Path, nil, v.askHostPath(ctx, vol.HostPath.Path, func() error { return checkHostPath(vol.HostPath) })
	case vol.EmptyDir != nil:
		return path, nil, v.emptyDir(pod, path, vol.EmptyDir)
	}
	content, memory, warning, err := v.content(ctx, pod, vol)
	if err != nil {
		return path, nil, err
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return path, nil, err
	}
	if memory {
		if err := mountTmpfs(path, "mode=0755"); err != nil {
			return path, nil, err
		}
	}
	record := filepath.Join(v.recordDir(string(pod.UID)), vol.Name)
	return path, warning, content.publish(path, record, fsGroup(pod))
}

func fsGroup(pod *corev1.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}

// TearDown unmounts and removes everything of the pod. It enters no mount: neither those made here nor
// those that propagated back from a container.
func (v *Volumes) TearDown(podUID string) error {
	dir := v.podDir(podUID)
	for _, path := range []string{filepath.Join(dir, "subpaths"), filepath.Join(dir, "volumes"), v.recordDir(podUID)} {
		if err := confine.RemoveAll(path); err != nil {
			return fmt.Errorf("remove volumes: %w", err)
		}
	}
	return nil
}
