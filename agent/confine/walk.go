package confine

import (
	"encoding/binary"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Found is a file or folder that a walk has reached.
type Found struct {
	Device, Inode uint64
	Links         uint32
	Blocks        uint64 // of 512 bytes
	Folder        bool
}

// Walk visits a folder and everything below it, one name per call, so that the caller sets the pace and may stop at any time. It
// follows no link and enters no mount, opens nothing but folders, and never calls the file system of a mount, which may not
// answer. It needs few descriptors and little memory, however large and deep the tree is. Files that change meanwhile may be found
// or not; a folder that is moved while the walk is deep below it may be omitted.
type Walk struct {
	frames []frame
	buf    []byte
	root   bool // the outermost folder has been returned
}

// frame is a folder that the walk is in. It is either open, or was closed to save descriptors in a deep tree, and is opened again
// from the folder below.
type frame struct {
	fd            int32 // -1: closed
	device, inode uint64
	next          int64   // offset in the folder of the next names, when batch is empty
	batch         []entry // names that have been read and not visited
}

type entry struct {
	name string
	next int64 // offset in the folder after this name
}

const (
	// openFrames is how many folders are kept open at either end of the path down: the outermost, to which a walk can always
	// return, and the innermost.
	openFrames = 32
	// batchSize is how many bytes of names are read at a time: with the longest names ten, with short ones a hundred.
	batchSize = 4 << 10
)

// NewWalk begins at a folder that no container can replace.
func NewWalk(path string) (*Walk, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	w := &Walk{buf: make([]byte, batchSize)}
	if err := w.push(fd); err != nil {
		return nil, err
	}
	return w, nil
}

// Close ends the walk.
func (w *Walk) Close() {
	for _, f := range w.frames {
		f.close()
	}
	w.frames = nil
}

func (f *frame) close() {
	if f.fd >= 0 {
		unix.Close(int(f.fd))
		f.fd = -1
	}
}

// Next returns the next file or folder, the folder itself first. After the last it returns io.EOF; after another error the walk
// may continue.
func (w *Walk) Next() (Found, error) {
	if !w.root && len(w.frames) > 0 {
		w.root = true
		found, _, err := look(int(w.frames[0].fd), "")
		return found, err
	}
	for len(w.frames) > 0 {
		f := &w.frames[len(w.frames)-1]
		if len(f.batch) == 0 {
			if err := w.read(f); err != nil {
				w.leave()
				if !errors.Is(err, io.EOF) {
					return Found{}, err
				}
				continue
			}
		}
		e := f.batch[0]
		f.batch, f.next = f.batch[1:], e.next
		found, mounted, err := look(int(f.fd), e.name)
		switch {
		case err == unix.ENOENT || mounted:
			continue
		case err != nil:
			return Found{}, os.NewSyscallError("statx", err)
		case found.Folder:
			if err := w.enter(f, e.name); err != nil {
				return found, err
			}
		}
		return found, nil
	}
	return Found{}, io.EOF
}

// look returns a name's type and size. For a mount point it uses only what the kernel has in memory, without calling the mounted
// file system.
func look(dir int, name string) (found Found, mounted bool, err error) {
	var st unix.Statx_t
	flags := unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT | unix.AT_STATX_DONT_SYNC
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	err = unix.Statx(dir, name, flags, unix.STATX_TYPE|unix.STATX_INO|unix.STATX_NLINK|unix.STATX_BLOCKS, &st)
	return Found{
		Device: unix.Mkdev(st.Dev_major, st.Dev_minor), Inode: st.Ino, Links: st.Nlink, Blocks: st.Blocks,
		Folder: st.Mode&unix.S_IFMT == unix.S_IFDIR,
	}, st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, err
}

// enter goes down into a folder, unless that was replaced, or is a mount point.
func (w *Walk) enter(f *frame, name string) error {
	fd, err := openat2(int(f.fd), name, unix.O_RDONLY|unix.O_DIRECTORY, below)
	switch err {
	case nil:
	case unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EXDEV, unix.EAGAIN:
		return nil
	default:
		return os.NewSyscallError("openat2", err)
	}
	if err := w.push(fd); err != nil {
		return err
	}
	if i := len(w.frames) - 1 - openFrames; i >= openFrames {
		w.frames[i].close()
		w.frames[i].batch = nil // read again from next on
	}
	return nil
}

func (w *Walk) push(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return os.NewSyscallError("fstat", err)
	}
	w.frames = append(w.frames, frame{fd: int32(fd), device: st.Dev, inode: st.Ino})
	return nil
}

// leave goes up one folder or, if that was moved, to the innermost that is open.
func (w *Walk) leave() {
	last := len(w.frames) - 1
	child := &w.frames[last]
	if last > 0 {
		if parent := &w.frames[last-1]; parent.fd < 0 {
			parent.reopen(int(child.fd))
		}
	}
	child.close()
	w.frames = w.frames[:last]
	for len(w.frames) > 0 && w.frames[len(w.frames)-1].fd < 0 {
		w.frames = w.frames[:len(w.frames)-1]
	}
}

func (f *frame) reopen(child int) {
	fd, err := unix.Openat(child, "..", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil && (st.Dev != f.device || st.Ino != f.inode) {
		err = unix.ESTALE
	}
	if err == nil {
		_, err = unix.Seek(fd, f.next, io.SeekStart)
	}
	if err != nil {
		unix.Close(fd)
		return
	}
	f.fd = int32(fd)
}

// Fields of struct linux_dirent64.
const (
	direntNext   = 8
	direntLength = 16
	direntName   = 19
)

// read reads the next names of a folder.
func (w *Walk) read(f *frame) error {
	n, err := unix.Getdents(int(f.fd), w.buf)
	switch {
	case err == unix.ENOENT || err == nil && n == 0: // removed, or all read
		return io.EOF
	case err != nil:
		return os.NewSyscallError("getdents64", err)
	}
	f.batch = f.batch[:0]
	for rest := w.buf[:n]; len(rest) > direntName; {
		length := int(binary.NativeEndian.Uint16(rest[direntLength:]))
		name := unix.ByteSliceToString(rest[direntName:length])
		next := int64(binary.NativeEndian.Uint64(rest[direntNext:]))
		if name != "." && name != ".." {
			f.batch = append(f.batch, entry{name, next})
		} else {
			f.next = next
		}
		rest = rest[length:]
	}
	if len(f.batch) == 0 {
		return w.read(f)
	}
	return nil
}
