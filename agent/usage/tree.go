package usage

import (
	"errors"
	"io"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/agent/confine"
)

// maxLinked is how many files with several names are remembered in one walk, to count them once.
const maxLinked = 1 << 16

// count is one tree being measured.
type count struct {
	walk      *confine.Walk
	sum       Amount
	linked    map[file]struct{}
	maxLinked int
	// The count of linked files beyond maxLinked, each of whose names counts as a share of the file.
	sharedBytes, sharedInodes float64
}

type file struct{ device, inode uint64 }

// begin opens a tree; one that does not exist is empty.
func begin(path string) (*count, error) {
	walk, err := confine.NewWalk(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &count{}, nil
	}
	return &count{walk: walk, maxLinked: maxLinked}, err
}

// goOn counts until the tree is done or the time is over. Folders that cannot be read are omitted; the last error is returned with
// done.
func (c *count) goOn(until time.Time) (done bool, err error) {
	if c.walk == nil {
		return true, nil
	}
	for n := 1; ; n++ {
		found, failed := c.walk.Next()
		switch {
		case errors.Is(failed, io.EOF):
			return true, err
		case failed != nil:
			err = failed
		default:
			c.add(found)
		}
		if n%256 == 0 && !time.Now().Before(until) {
			return false, err
		}
	}
}

func (c *count) add(f confine.Found) {
	bytes := f.Blocks * 512
	if f.Folder || f.Links < 2 {
		c.sum = c.sum.Add(Amount{bytes, 1})
		return
	}
	id := file{f.Device, f.Inode}
	if _, seen := c.linked[id]; seen {
		return
	}
	if len(c.linked) < c.maxLinked {
		if c.linked == nil {
			c.linked = map[file]struct{}{}
		}
		c.linked[id] = struct{}{}
		c.sum = c.sum.Add(Amount{bytes, 1})
		return
	}
	// All names of a volume's files are in the volume, since hard links cannot cross mounts.
	c.sharedBytes += float64(bytes) / float64(f.Links)
	c.sharedInodes += 1 / float64(f.Links)
}

func (c *count) amount() Amount {
	return c.sum.Add(Amount{uint64(c.sharedBytes), uint64(c.sharedInodes)})
}

func (c *count) close() {
	if c.walk != nil {
		c.walk.Close()
	}
}

// inMemory is the use and the size of a tmpfs; both are 0 for a folder where none is mounted.
func inMemory(path string) (used, room Amount, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		if err == unix.ENOENT {
			err = nil
		}
		return used, room, err
	}
	if st.Type != unix.TMPFS_MAGIC {
		return used, room, nil
	}
	used = Amount{(st.Blocks - st.Bfree) * uint64(st.Bsize), st.Files - st.Ffree}
	return used, Amount{st.Blocks * uint64(st.Bsize), st.Files}, nil
}
