package stats

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Usage is what a cgroup and all below it use. Counters grow; the other values are current ones.
type Usage struct {
	At              time.Time
	CPU             uint64 // nanoseconds
	Memory          uint64 // bytes, caches included
	WorkingSet      uint64 // Memory less the file cache that is not in use
	RSS             uint64
	Swap            uint64
	PageFaults      uint64
	MajorPageFaults uint64
	Processes       uint64
	ReadBytes       uint64
	WriteBytes      uint64
	Reads, Writes   uint64
}

// resource is a resource that a cgroup counts.
type resource int

const (
	cpu resource = iota
	memory
	pids
	io
	cpuLimit
	pressure
	resources
)

// Hierarchy has the mount point of each controller on this host: in the v2 tree, in v1 trees, or (hybrid) some in each.
type Hierarchy struct {
	dirs    [resources]string // "" if the host does not count it
	unified [resources]bool
}

// v1 mounts of the controllers that count each resource.
var legacyNames = [resources]string{cpu: "cpuacct", memory: "memory", pids: "pids", io: "blkio", cpuLimit: "cpu"}

// DetectHierarchy detects the mounts below root, which is /sys/fs/cgroup.
func DetectHierarchy(root string) (*Hierarchy, error) {
	h := &Hierarchy{}
	v2 := ""
	for _, dir := range []string{root, filepath.Join(root, "unified")} {
		if isV2(dir) {
			v2 = dir
			break
		}
	}
	controllers := map[string]bool{}
	if v2 != "" {
		list, err := os.ReadFile(filepath.Join(v2, "cgroup.controllers"))
		if err != nil {
			return nil, fmt.Errorf("controllers of %s: %w", v2, err)
		}
		for _, c := range strings.Fields(string(list)) {
			controllers[c] = true
		}
	}
	found := false
	for r, name := range [resources]string{cpu: "cpu", memory: "memory", pids: "pids", io: "io", cpuLimit: "cpu"} {
		if name == "" {
			continue
		}
		legacy := filepath.Join(root, legacyNames[r])
		switch {
		case v2 != root && exists(legacy):
			h.dirs[r] = legacy
		case controllers[name]:
			h.dirs[r], h.unified[r] = v2, true
		}
		found = found || h.dirs[r] != ""
	}
	if v2 != "" { // of every cgroup of version 2, whatever its controllers
		h.dirs[pressure], h.unified[pressure] = v2, true
	}
	if !found {
		return nil, fmt.Errorf("no cgroup controllers below %s: mount cgroup2 there", root)
	}
	return h, nil
}

func isV2(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// file is a file that is read for a sample.
type file int

const (
	cpuFile file = iota
	memoryFile
	memoryStatFile
	swapFile
	pidsFile
	ioBytesFile
	ioCountFile
	files
)

var fileNames = [files]struct {
	resource        resource
	legacy, unified string // empty: it has no such file
}{
	cpuFile:        {cpu, "cpuacct.usage", "cpu.stat"},
	memoryFile:     {memory, "memory.usage_in_bytes", "memory.current"},
	memoryStatFile: {memory, "memory.stat", "memory.stat"},
	swapFile:       {memory, "", "memory.swap.current"}, // version 1 counts it in memory.stat
	pidsFile:       {pids, "pids.current", "pids.current"},
	ioBytesFile:    {io, "blkio.throttle.io_service_bytes_recursive", "io.stat"},
	ioCountFile:    {io, "blkio.throttle.io_serviced_recursive", ""},
}

// Cgroup keeps the files of one cgroup open: a sample is one read of each.
type Cgroup struct {
	hierarchy *Hierarchy
	fds       [files]int
}

// ErrGone means that the cgroup does not exist (any more).
var ErrGone = errors.New("the cgroup no longer exists")

// Open opens a cgroup by its path, the same in every hierarchy.
func (h *Hierarchy) Open(path string) (*Cgroup, error) {
	c := &Cgroup{hierarchy: h}
	found := false
	for f := range files {
		c.fds[f] = -1
		r := fileNames[f].resource
		name := fileNames[f].legacy
		if h.unified[r] {
			name = fileNames[f].unified
		}
		if h.dirs[r] == "" || name == "" {
			continue
		}
		fd, err := unix.Open(filepath.Join(h.dirs[r], path, name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a root cgroup lacks some; a cgroup that was removed lacks all
		}
		if err != nil {
			c.Close()
			return nil, fmt.Errorf("cgroup %s: %w", path, err)
		}
		c.fds[f], found = fd, true
	}
	if !found {
		return nil, fmt.Errorf("%s: %w", path, ErrGone)
	}
	return c, nil
}

// Close closes the files.
func (c *Cgroup) Close() {
	for f, fd := range c.fds {
		if fd >= 0 {
			unix.Close(fd)
			c.fds[f] = -1
		}
	}
}

// Read takes a sample, with I/O only if withIO is set, since it costs as much as memory. buf is scratch space; 16 KiB
// suffice for every file, except on hosts with hundreds of disks, of which only the first are then counted.
func (c *Cgroup) Read(buf []byte, withIO bool) (Usage, error) {
	u := Usage{At: time.Now()}
	for f, fd := range c.fds {
		if fd < 0 || !withIO && fileNames[f].resource == io {
			continue
		}
		n, err := unix.Pread(fd, buf, 0)
		if errors.Is(err, unix.ENODEV) {
			return u, ErrGone
		}
		if err != nil {
			return u, fmt.Errorf("read %s: %w", fileNames[f].legacy, err)
		}
		unified := c.hierarchy.unified[fileNames[f].resource]
		u.parse(file(f), unified, buf[:n])
	}
	return u, nil
}

func (u *Usage) parse(f file, unified bool, data []byte) {
	switch f {
	case cpuFile:
		if unified {
			u.CPU = valueOf(data, "usage_usec ") * 1000
		} else {
			u.CPU = number(data)
		}
	case memoryFile:
		u.Memory = number(data)
		u.WorkingSet = u.Memory
	case memoryStatFile:
		u.parseMemory(data, unified)
	case swapFile:
		u.Swap = number(data)
	case pidsFile:
		u.Processes = number(data)
	case ioBytesFile:
		if unified {
			u.parseIO(data)
		} else {
			u.ReadBytes, u.WriteBytes = legacyIO(data)
		}
	case ioCountFile:
		u.Reads, u.Writes = legacyIO(data)
	}
}

// parseMemory is called after memoryFile was read, which has Memory.
func (u *Usage) parseMemory(data []byte, unified bool) {
	var inactive uint64
	if unified {
		inactive = valueOf(data, "\ninactive_file ")
		u.RSS = valueOf(data, "anon ")
		u.PageFaults, u.MajorPageFaults = valueOf(data, "\npgfault "), valueOf(data, "\npgmajfault ")
	} else {
		data = totals(data)
		inactive = valueOf(data, "\ntotal_inactive_file ")
		u.RSS, u.Swap = valueOf(data, "\ntotal_rss "), valueOf(data, "\ntotal_swap ")
		u.PageFaults, u.MajorPageFaults = valueOf(data, "\ntotal_pgfault "), valueOf(data, "\ntotal_pgmajfault ")
	}
	u.WorkingSet = u.Memory - min(u.Memory, inactive)
}

// totals are the lines of version 1's memory.stat that count this cgroup and those below it: the last third of the file.
func totals(data []byte) []byte {
	if i := bytes.Index(data, []byte("\ntotal_cache ")); i >= 0 {
		return data[i:]
	}
	return data
}

// parseIO sums io.stat: "8:0 rbytes=1 wbytes=2 rios=3 wios=4 ...".
func (u *Usage) parseIO(data []byte) {
	for line := range bytes.Lines(data) {
		u.ReadBytes += valueOf(line, " rbytes=")
		u.WriteBytes += valueOf(line, " wbytes=")
		u.Reads += valueOf(line, " rios=")
		u.Writes += valueOf(line, " wios=")
	}
}

// legacyIO sums "8:0 Read 1", "8:0 Write 2", ...
func legacyIO(data []byte) (read, write uint64) {
	for line := range bytes.Lines(data) {
		read += valueOf(line, " Read ")
		write += valueOf(line, " Write ")
	}
	return read, write
}

// valueOf is the number after key; 0 if there is none.
func valueOf(data []byte, key string) uint64 {
	i := bytes.Index(data, []byte(key))
	if i < 0 {
		return 0
	}
	return number(data[i+len(key):])
}

// number is the number at the start of data.
func number(data []byte) (n uint64) {
	for _, c := range data {
		if c < '0' || c > '9' {
			break
		}
		n = 10*n + uint64(c-'0')
	}
	return n
}
