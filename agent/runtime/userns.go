package runtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	goruntime "runtime"

	"github.com/containerd/containerd/v2/pkg/sys"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Each pod with a user namespace of its own has a range of the node's IDs that no other pod and no user of the node has: as with
// kubelet, 65,536 IDs, and never the lowest range.
const (
	idsPerPod = 65536
	idRanges  = 1<<32/idsPerPod - 2 // the lowest is the node's; the highest holds the ID that means nobody
)

// Users is the first of the node's IDs to which a pod's IDs are mapped; 0: the pod's IDs are the node's own.
type Users uint32

func (u Users) mapping() []specs.LinuxIDMapping {
	return []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(u), Size: idsPerPod}}
}

// usersRecord has the form of kubelet's file of the same name.
type usersRecord struct {
	UIDMappings []idMapping `json:"uidMappings"`
	GIDMappings []idMapping `json:"gidMappings"`
}

type idMapping struct {
	HostID      uint32 `json:"hostId"`
	ContainerID uint32 `json:"containerId"`
	Length      uint32 `json:"length"`
}

func (r *Runtime) usersPath(podUID string) string { return filepath.Join(r.PodDir(podUID), "userns") }

// AllocateUsers returns a pod's range: the one that it has, or one that no pod has. The pod keeps it until ForgetPod, through
// restarts of the agent and the host.
func (r *Runtime) AllocateUsers(podUID string) (Users, error) {
	r.users.Lock()
	defer r.users.Unlock()
	taken, err := r.takenUsers()
	if err != nil {
		return 0, err
	}
	for users, pod := range taken {
		if pod == podUID {
			return users, nil
		}
	}
	// The search begins at a random range, so that a range is not soon reused.
	start := rand.IntN(idRanges)
	for i := range idRanges {
		users := Users(1+(start+i)%idRanges) * idsPerPod
		if _, is := taken[users]; !is {
			return users, r.recordUsers(podUID, users)
		}
	}
	return 0, errors.New("could not find an empty slot to allocate a user namespace")
}

// takenUsers reads the pods' records. One that cannot be read is an error: its range is not known, and might be given out again.
func (r *Runtime) takenUsers() (map[Users]string, error) {
	paths, err := filepath.Glob(r.usersPath("*"))
	if err != nil {
		return nil, err
	}
	taken := map[Users]string{}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // its pod was removed meanwhile
		}
		var record usersRecord
		if err == nil {
			err = json.Unmarshal(data, &record)
		}
		if err != nil {
			return nil, fmt.Errorf("user namespace of a pod: %s: %w", path, err)
		}
		if len(record.UIDMappings) != 1 || record.UIDMappings[0].Length != idsPerPod || record.UIDMappings[0].HostID%idsPerPod != 0 || record.UIDMappings[0].HostID == 0 {
			return nil, fmt.Errorf("user namespace of a pod: %s holds no range of %d IDs", path, idsPerPod)
		}
		taken[Users(record.UIDMappings[0].HostID)] = filepath.Base(filepath.Dir(path))
	}
	return taken, nil
}

// recordUsers writes the record durably, before any file is owned by the range's IDs.
func (r *Runtime) recordUsers(podUID string, users Users) error {
	mapping := []idMapping{{HostID: uint32(users), Length: idsPerPod}}
	data, err := json.Marshal(usersRecord{UIDMappings: mapping, GIDMappings: mapping})
	if err != nil {
		return err
	}
	path := r.usersPath(podUID)
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return fmt.Errorf("user namespace: %w", err)
	}
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("user namespace: %w", err)
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("user namespace: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("user namespace: %w", err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("user namespace: %w", err)
	}
	defer dir.Close()
	return dir.Sync()
}

// makeOwnedNamespaces makes the pod's user namespace and, owned by that, the others; pins them; and sets them up.
func makeOwnedNamespaces(s Sandbox, c SandboxConfig) error {
	mapping := fmt.Sprintf("0:%d:%d", s.Users, idsPerPod)
	err := sys.UnshareAfterEnterUserns(mapping, mapping, unix.CLONE_NEWNET|unix.CLONE_NEWIPC|unix.CLONE_NEWUTS, func(pid int) error {
		for _, p := range []struct{ kind, path string }{{"user", s.UserNS}, {"net", s.NetNS}, {"ipc", s.IPCNS}, {"uts", s.UTSNS}} {
			if err := pin(fmt.Sprintf("/proc/%d/ns/%s", pid, p.kind), p.path); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("create pod namespaces: %w", err)
	}
	// Never unlocked: the thread ends with the goroutine, in the pod's namespaces.
	goruntime.LockOSThread()
	if err := errors.Join(enterNamespace(s.NetNS, unix.CLONE_NEWNET), enterNamespace(s.UTSNS, unix.CLONE_NEWUTS)); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(c.Hostname)); err != nil {
		return fmt.Errorf("set hostname %q: %w", c.Hostname, err)
	}
	return setUpNetNS()
}

// asOwner runs f with the effective user ID of the namespaces' root, which may write the parameters of its own IPC namespace.
// The calling goroutine must be locked to its thread.
func asOwner(u Users, f func() error) error {
	set := func(id Users) error {
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(id), ^uintptr(0)); errno != 0 {
			return fmt.Errorf("become user %d: %w", id, errno)
		}
		return nil
	}
	if err := set(u); err != nil {
		return err
	}
	err := f()
	return errors.Join(err, set(0))
}
