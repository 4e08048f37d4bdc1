package usage

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrNoQuotas means that a file system does not count by project.
var ErrNoQuotas = errors.New("the file system does not count by project: it is ext4 or xfs mounted with prjquota that does")

// Quotas gives folders project IDs, by which the kernel counts their content: no walk is needed, however many files there are. As
// with the kubelet they only count, and limit nothing. The zero value is ready for use.
//
// IDs are not recorded: a folder has its own as an attribute, and an ID is free if the kernel counts nothing for it. So no ID is
// lost when an agent crashes, or stays in use after its folder was removed.
//
// The owner of a file may change its project, except from a user namespace: folders of pods without one cannot be counted this
// way.
type Quotas struct{ assigning sync.Mutex }

// Project IDs are chosen at random above those that administrators write in /etc/projid, as kubelet's are.
const (
	firstProject = 1 << 20
	projects     = 1 << 30
	attempts     = 100
)

// Assign makes the kernel count everything that will be created in an empty folder.
func (q *Quotas) Assign(path string) error {
	dir, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	q.assigning.Lock()
	defer q.assigning.Unlock()
	for range attempts {
		id := firstProject + rand.Uint32N(projects)
		taken, err := inProject(dir, id)
		if err != nil {
			return err
		}
		if taken != (quota{}) {
			continue
		}
		attributes, err := projectOf(dir)
		if err != nil {
			return err
		}
		attributes.project, attributes.flags = id, attributes.flags|inheritProject
		return ioctl(dir, setAttributes, &attributes)
	}
	return fmt.Errorf("no free project ID found for %s in %d attempts", path, attempts)
}

// counted is the kernel's count for a folder; ok is false for one without a project.
func counted(path string) (amount Amount, ok bool, err error) {
	dir, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return amount, false, err
	}
	defer dir.Close()
	attributes, err := projectOf(dir)
	if err != nil || attributes.project < firstProject || attributes.flags&inheritProject == 0 {
		return amount, false, nil // also if the file system does not support projects
	}
	q, err := inProject(dir, attributes.project)
	return Amount{q.space, q.inodes}, err == nil, nil
}

// fsxattr is struct fsxattr.
type fsxattr struct {
	flags, extentSize, extents, project, cowExtentSize uint32
	_                                                  [8]byte
}

// quota is the used part of struct if_dqblk; its times are of limits.
type quota struct {
	hardBlocks, softBlocks, space, hardInodes, softInodes, inodes uint64
}

const (
	getAttributes  = 0x801c581f // FS_IOC_FSGETXATTR
	setAttributes  = 0x401c5820 // FS_IOC_FSSETXATTR
	inheritProject = 0x200      // FS_XFLAG_PROJINHERIT
	projectQuota   = 2          // PRJQUOTA
	getQuota       = 0x800007   // Q_GETQUOTA
)

func projectOf(dir *os.File) (attributes fsxattr, err error) {
	err = ioctl(dir, getAttributes, &attributes)
	return attributes, err
}

func ioctl(dir *os.File, request uintptr, attributes *fsxattr) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), request, uintptr(unsafe.Pointer(attributes))); errno != 0 {
		return &os.PathError{Op: "project of", Path: dir.Name(), Err: errno}
	}
	return nil
}

// inProject is the count of dir's file system for a project.
func inProject(dir *os.File, id uint32) (quota, error) {
	var answer struct {
		quota
		_ [3]uint64 // times, and which fields are valid
	}
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, dir.Fd(), getQuota<<8|projectQuota, uintptr(id), uintptr(unsafe.Pointer(&answer)), 0, 0)
	switch errno {
	case 0:
		return answer.quota, nil
	case unix.ENOENT: // nothing was ever counted for it
		return quota{}, nil
	case unix.ESRCH, unix.ENOSYS, unix.ENOTSUP, unix.EINVAL, unix.ENODEV, unix.ENOTBLK:
		return quota{}, ErrNoQuotas
	}
	return quota{}, &os.PathError{Op: "quota of", Path: dir.Name(), Err: errno}
}
