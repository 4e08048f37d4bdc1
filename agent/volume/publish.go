package volume

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/skep-io/skep/agent/confine"
)

// dataLink is the link through which all files are read: each update replaces it in a single
// rename, so a reader sees all old or all new files.
const dataLink = "..data"

// versionPrefix is the prefix of folders' names, each with one state of all files.
const versionPrefix = "..v"

// published is the state that was last written to a volume. It is stored in a file that no
// container sees: the volume's own content is never read, since a privileged container that writes
// there would decide what the agent reads.
type published struct {
	Version string `json:"version"` // the folder that dataLink points to
	Digest  string `json:"digest"`
}

// readPublished returns an empty state if the file cannot be read: the content is then written
// again.
func readPublished(path string) (p published) {
	data, err := confine.ReadRegular(path, 4<<10)
	if err != nil || json.Unmarshal(data, &p) != nil {
		return published{}
	}
	return p
}

func (p published) save(path string) error {
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("record of the volume's content: %w", err)
	}
	err = os.WriteFile(path+".new", data, 0o600)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("record of the volume's content: %w", err)
	}
	return nil
}

// publish updates the volume in dir to the content, in one rename. The file record then has the new
// state; content that is the same is not written again.
func (c content) publish(dir, record string, group *int64) error {
	d, err := confine.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	last, digest := readPublished(record), c.digest(group)
	if last.Digest == digest && d.LeadsTo(dataLink, last.Version) {
		return nil
	}
	next := published{Version: versionPrefix + strings.ToLower(rand.Text()), Digest: digest}
	if err := c.fill(d, next.Version, group); err != nil {
		return errors.Join(err, d.RemoveAll(next.Version))
	}
	if err := d.Symlink(next.Version, dataLink, "..data_"+next.Version); err != nil {
		return err
	}
	// Readers see the new files from here. Names are added after the data that they point to, and
	// removed after it too.
	names := c.topNames()
	for _, name := range names {
		if target := filepath.Join(dataLink, name); !d.LeadsTo(name, target) {
			if err := d.Symlink(target, name, "..name_"+next.Version); err != nil {
				return err
			}
		}
	}
	if err := removeOthers(d, append(names, dataLink, next.Version)); err != nil {
		return err
	}
	return next.save(record)
}

// fill makes a new folder with all files.
func (c content) fill(d *confine.Dir, version string, group *int64) error {
	into, err := d.MkdirAll(version, 0o755)
	if err != nil {
		return err
	}
	defer into.Close()
	for name, f := range c {
		at := into
		if parent := filepath.Dir(name); parent != "." {
			if at, err = into.MkdirAll(parent, 0o755); err != nil {
				return err
			}
		}
		mode := f.mode
		if group != nil {
			mode |= 0o440
		}
		err := at.Create(filepath.Base(name), f.data, mode, group)
		if at != into {
			at.Close()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// digest distinguishes contents, modes and group included.
func (c content) digest(group *int64) string {
	sum := sha256.New()
	number := func(n int64) { _ = binary.Write(sum, binary.LittleEndian, n) } // a hash never fails
	if group != nil {
		number(*group)
	}
	for _, name := range slices.Sorted(maps.Keys(c)) {
		f := c[name]
		number(int64(len(name)))
		sum.Write([]byte(name))
		number(int64(f.mode))
		number(int64(len(f.data)))
		sum.Write(f.data)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

func (c content) topNames() []string {
	seen := map[string]bool{}
	for name := range c {
		top, _, _ := strings.Cut(name, "/")
		seen[top] = true
	}
	return slices.Sorted(maps.Keys(seen))
}

// removeOthers removes everything except the names in keep.
func removeOthers(d *confine.Dir, keep []string) error {
	return d.Each(func(name string) error {
		if slices.Contains(keep, name) {
			return nil
		}
		err := d.RemoveAll(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
}
