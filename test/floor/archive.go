package floor

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
)

// archive writes the "newc" format of cpio, of which the kernel makes its first
// filesystem (Documentation/driver-api/early-userspace/buffer-format.rst). The
// first error is kept, and close returns it.
type archive struct {
	out     *bufio.Writer
	offset  int64
	number  int
	folders map[string]bool
	err     error
}

func newArchive(out io.Writer) *archive {
	return &archive{out: bufio.NewWriterSize(out, 1<<20), folders: map[string]bool{".": true, "/": true}}
}

func (a *archive) file(at string, mode fs.FileMode, data []byte) {
	a.folder(path.Dir(at))
	a.entry(at, 0o100000|uint32(mode.Perm()), data)
}

func (a *archive) symlink(at, to string) {
	a.folder(path.Dir(at))
	a.entry(at, 0o120777, []byte(to))
}

// folder writes the folder and those above it, once.
func (a *archive) folder(at string) {
	if a.folders[at] {
		return
	}
	a.folder(path.Dir(at))
	a.folders[at] = true
	a.entry(at, 0o040755, nil)
}

// copy adds a file of the host, or what lies below a folder of the host, if
// wanted says so.
func (a *archive) copy(from, at string, wanted func(path string) bool) {
	err := filepath.WalkDir(from, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || (wanted != nil && !wanted(name)) {
			return err
		}
		relative, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		a.file(path.Join(at, relative), info.Mode(), data)
		return nil
	})
	if a.err == nil {
		a.err = err
	}
}

func (a *archive) entry(at string, mode uint32, data []byte) {
	a.number++
	name := at
	if path.IsAbs(at) {
		name = at[1:]
	}
	// magic, inode, mode, user, group, links, time, size, device of the file
	// and of a node (two numbers each), length of the name, checksum
	a.write(fmt.Appendf(nil, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		a.number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0))
	a.write(append([]byte(name), 0))
	a.pad()
	a.write(data)
	a.pad()
}

func (a *archive) pad() {
	a.write(make([]byte, (4-a.offset%4)%4))
}

func (a *archive) write(data []byte) {
	if a.err != nil {
		return
	}
	n, err := a.out.Write(data)
	a.offset += int64(n)
	a.err = err
}

// close ends the archive; its writer stays open.
func (a *archive) close() error {
	a.entry("TRAILER!!!", 0, nil)
	if a.err != nil {
		return a.err
	}
	return a.out.Flush()
}
