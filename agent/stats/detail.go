package stats

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Detail is what a cgroup counts beside Usage: what only a scrape of metrics asks for. Its files are opened for each reading.
type Detail struct {
	UserCPU, SystemCPU time.Duration
	Throttling         Throttling
	CPULimit           CPULimit

	Cache, MappedFile, Kernel uint64 // bytes
	ActiveFile, InactiveFile  uint64 // bytes of file cache
	Peak                      uint64 // bytes in use at most
	LimitHits                 uint64 // how often memory was asked for at the limit
	OOMKills                  uint64 // processes that the kernel has killed for want of memory
	MemoryLimit, SwapLimit    uint64 // bytes; 0: none
	MemoryReservation         uint64 // bytes; 0: none
	ThreadsLimit              uint64 // 0: none

	// Pressure is missing (Known false) where the kernel does not count it for the cgroup: in hierarchies of version 1.
	CPUPressure, MemoryPressure, IOPressure Pressure

	Disks []DiskIO
}

// Throttling is how often and how long a CPU limit has stopped the cgroup.
type Throttling struct {
	Periods, Throttled uint64
	Time               time.Duration
}

// CPULimit is the share of the CPUs that the cgroup gets: Quota of Period in microseconds (0: no limit), and Shares in version 1's unit.
type CPULimit struct{ Quota, Period, Shares uint64 }

// Pressure is how long some (Waiting) and all (Stalled) tasks have waited for a resource.
type Pressure struct {
	Known            bool
	Waiting, Stalled time.Duration
}

// DiskIO is what went to and from one block device.
type DiskIO struct {
	Device                int // its number, as unix.Mkdev makes it
	ReadBytes, WriteBytes uint64
	Reads, Writes         uint64
}

// detailFiles are read for a Detail: from a hierarchy of version 1, or from that of version 2.
var detailFiles = []struct {
	resource        resource
	legacy, unified string
	parse           func(d *Detail, unified bool, data []byte)
}{
	{cpu, "cpuacct.stat", "cpu.stat", (*Detail).parseCPU},
	{cpuLimit, "cpu.stat", "cpu.stat", (*Detail).parseThrottling},
	{cpuLimit, "cpu.cfs_quota_us", "cpu.max", (*Detail).parseQuota},
	{cpuLimit, "cpu.cfs_period_us", "", func(d *Detail, _ bool, data []byte) { d.CPULimit.Period = number(data) }},
	{cpuLimit, "cpu.shares", "cpu.weight", (*Detail).parseShares},
	{memory, "memory.stat", "memory.stat", (*Detail).parseMemory},
	{memory, "memory.max_usage_in_bytes", "memory.peak", func(d *Detail, _ bool, data []byte) { d.Peak = number(data) }},
	{memory, "memory.failcnt", "", func(d *Detail, _ bool, data []byte) { d.LimitHits = number(data) }},
	{memory, "memory.oom_control", "memory.events", (*Detail).parseEvents},
	{memory, "memory.kmem.usage_in_bytes", "", func(d *Detail, _ bool, data []byte) { d.Kernel = number(data) }},
	{memory, "memory.limit_in_bytes", "memory.max", func(d *Detail, _ bool, data []byte) { d.MemoryLimit = limit(data) }},
	{memory, "memory.memsw.limit_in_bytes", "memory.swap.max", func(d *Detail, _ bool, data []byte) { d.SwapLimit = limit(data) }},
	{memory, "memory.soft_limit_in_bytes", "memory.low", func(d *Detail, _ bool, data []byte) { d.MemoryReservation = limit(data) }},
	{pids, "pids.max", "pids.max", func(d *Detail, _ bool, data []byte) { d.ThreadsLimit = limit(data) }},
	{io, "blkio.throttle.io_service_bytes_recursive", "io.stat", (*Detail).parseBytes},
	{io, "blkio.throttle.io_serviced_recursive", "", (*Detail).parseOperations},
	{pressure, "", "cpu.pressure", func(d *Detail, _ bool, data []byte) { d.CPUPressure = parsePressure(data) }},
	{pressure, "", "memory.pressure", func(d *Detail, _ bool, data []byte) { d.MemoryPressure = parsePressure(data) }},
	{pressure, "", "io.pressure", func(d *Detail, _ bool, data []byte) { d.IOPressure = parsePressure(data) }},
}

// Detail reads a cgroup by its path, the same in every hierarchy. What the host does not count stays zero; ErrGone if nothing is counted.
func (h *Hierarchy) Detail(path string, buf []byte) (d Detail, err error) {
	found := false
	for _, f := range detailFiles {
		name := f.legacy
		if h.unified[f.resource] {
			name = f.unified
		}
		if h.dirs[f.resource] == "" || name == "" {
			continue
		}
		data, err := readInto(buf, filepath.Join(h.dirs[f.resource], path, name))
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.EOPNOTSUPP):
			continue // a root cgroup lacks some, as do kernels without swap or pressure accounting
		case err != nil:
			return d, fmt.Errorf("cgroup %s: %w", path, err)
		}
		found = true
		f.parse(&d, h.unified[f.resource], data)
	}
	if !found {
		return d, fmt.Errorf("%s: %w", path, ErrGone)
	}
	return d, nil
}

// readInto reads a small file at once; of one that is larger than the buffer, the beginning.
func readInto(buf []byte, path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	n, err := unix.Read(fd, buf)
	if err != nil {
		return nil, &os.PathError{Op: "read", Path: path, Err: err}
	}
	return buf[:n], nil
}

// userHZ is the unit of times in cpuacct.stat: the kernel's USER_HZ, which is 100 on every architecture that Go runs on.
const userHZ = time.Second / 100

func (d *Detail) parseCPU(unified bool, data []byte) {
	if unified {
		d.UserCPU, d.SystemCPU = microseconds(data, "\nuser_usec "), microseconds(data, "\nsystem_usec ")
		return
	}
	d.UserCPU, d.SystemCPU = time.Duration(valueOf(data, "user "))*userHZ, time.Duration(valueOf(data, "\nsystem "))*userHZ
}

func (d *Detail) parseThrottling(unified bool, data []byte) {
	d.Throttling = Throttling{Periods: valueOf(data, "nr_periods "), Throttled: valueOf(data, "nr_throttled ")}
	if unified {
		d.Throttling.Time = microseconds(data, "throttled_usec ")
	} else {
		d.Throttling.Time = time.Duration(valueOf(data, "throttled_time "))
	}
}

// parseQuota reads "max 100000" and "50000 100000"; without a limit, "-1" in version 1.
func (d *Detail) parseQuota(unified bool, data []byte) {
	d.CPULimit.Quota = number(data)
	if !unified {
		return
	}
	if _, period, ok := bytes.Cut(data, []byte(" ")); ok {
		d.CPULimit.Period = number(period)
	}
}

// parseShares gives a weight (1 to 10,000) in the unit of shares (2 to 262,144), by the conversion that runtimes use the other way round.
func (d *Detail) parseShares(unified bool, data []byte) {
	d.CPULimit.Shares = number(data)
	if unified && d.CPULimit.Shares > 0 {
		d.CPULimit.Shares = 2 + (d.CPULimit.Shares-1)*262142/9999
	}
}

func (d *Detail) parseMemory(unified bool, data []byte) {
	if unified {
		d.Cache, d.MappedFile, d.Kernel = valueOf(data, "\nfile "), valueOf(data, "\nfile_mapped "), valueOf(data, "\nkernel ")
		d.ActiveFile, d.InactiveFile = valueOf(data, "\nactive_file "), valueOf(data, "\ninactive_file ")
		return
	}
	data = totals(data)
	d.Cache, d.MappedFile = valueOf(data, "\ntotal_cache "), valueOf(data, "\ntotal_mapped_file ")
	d.ActiveFile, d.InactiveFile = valueOf(data, "\ntotal_active_file "), valueOf(data, "\ntotal_inactive_file ")
}

func (d *Detail) parseEvents(unified bool, data []byte) {
	d.OOMKills = valueOf(data, "\noom_kill ")
	if unified {
		d.LimitHits = valueOf(data, "\nmax ")
	}
}

// parseBytes reads "8:0 rbytes=1 wbytes=2 rios=3 wios=4 ..." or "8:0 Read 1", "8:0 Write 2", ...
func (d *Detail) parseBytes(unified bool, data []byte) {
	for line := range bytes.Lines(data) {
		disk := d.disk(line)
		switch {
		case disk == nil:
		case unified:
			disk.ReadBytes, disk.WriteBytes = valueOf(line, " rbytes="), valueOf(line, " wbytes=")
			disk.Reads, disk.Writes = valueOf(line, " rios="), valueOf(line, " wios=")
		default:
			disk.ReadBytes += valueOf(line, " Read ")
			disk.WriteBytes += valueOf(line, " Write ")
		}
	}
}

func (d *Detail) parseOperations(_ bool, data []byte) {
	for line := range bytes.Lines(data) {
		if disk := d.disk(line); disk != nil {
			disk.Reads += valueOf(line, " Read ")
			disk.Writes += valueOf(line, " Write ")
		}
	}
}

// disk is the entry of the device that a line begins with; nil if it begins with none.
func (d *Detail) disk(line []byte) *DiskIO {
	name, _, _ := bytes.Cut(line, []byte(" "))
	major, minor, ok := bytes.Cut(name, []byte(":"))
	if !ok {
		return nil
	}
	device := int(unix.Mkdev(uint32(number(major)), uint32(number(minor))))
	for i := range d.Disks {
		if d.Disks[i].Device == device {
			return &d.Disks[i]
		}
	}
	d.Disks = append(d.Disks, DiskIO{Device: device})
	return &d.Disks[len(d.Disks)-1]
}

// parsePressure reads "some avg10=0.00 avg60=0.00 avg300=0.00 total=1", and the same with "full".
func parsePressure(data []byte) (p Pressure) {
	for line := range bytes.Lines(data) {
		total := microseconds(line, " total=")
		switch {
		case bytes.HasPrefix(line, []byte("some ")):
			p.Known, p.Waiting = true, total
		case bytes.HasPrefix(line, []byte("full ")):
			p.Stalled = total
		}
	}
	return p
}

func microseconds(data []byte, key string) time.Duration {
	return time.Duration(valueOf(data, key)) * time.Microsecond
}

// limit reads a limit; 0 if there is none: "max" in version 2, the largest number of pages in version 1.
func limit(data []byte) uint64 {
	n, err := strconv.ParseUint(string(bytes.TrimSpace(data)), 10, 64)
	if err != nil || n > math.MaxInt64/2 {
		return 0
	}
	return n
}
