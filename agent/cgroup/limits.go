package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// MinShares is the kernel's smallest share of CPU time, MaxShares its largest.
const (
	MinShares = 2
	MaxShares = 262144
)

// Shares converts thousandths of a CPU to CPU shares.
func Shares(milliCPU int64) uint64 {
	return uint64(min(max(milliCPU*1024/1000, MinShares), MaxShares))
}

// Limits are what the processes of a cgroup may use together. 0 leaves shares as they are and the others without a limit.
type Limits struct {
	CPUShares uint64 // in v1's unit
	CPUQuota  int64  // microseconds in a period
	CPUPeriod uint64 // microseconds
	Memory    int64  // bytes
	Pids      int64
}

// LimitPods makes the cgroup of all pods and those of the classes, and sets the limits of all pods together. A limit below what
// is in use is refused, so that no process is killed for it.
func (t *Tree) LimitPods(all Limits) error {
	for _, path := range []string{t.Kubepods(), t.classPath(corev1.PodQOSBurstable), t.classPath(corev1.PodQOSBestEffort)} {
		if err := t.make(path); err != nil {
			return err
		}
	}
	return errors.Join(
		t.set(t.classPath(corev1.PodQOSBestEffort), Limits{CPUShares: MinShares}),
		t.set(t.Kubepods(), all),
	)
}

// ShareBurstable sets the CPU shares of all burstable pods together.
func (t *Tree) ShareBurstable(shares uint64) error {
	path := t.classPath(corev1.PodQOSBurstable)
	if err := t.make(path); err != nil {
		return err
	}
	return t.set(path, Limits{CPUShares: shares})
}

// EnsurePod makes the pod's cgroup, if it has none, sets its limits and returns its path.
func (t *Tree) EnsurePod(uid string, class corev1.PodQOSClass, limits Limits) (string, error) {
	path := t.PodPath(uid, class)
	if err := t.make(path); err != nil {
		return path, err
	}
	return path, t.set(path, limits)
}

// set writes limits to the controllers that the host has.
func (t *Tree) set(path string, l Limits) error {
	var failed []error
	if dir := t.folder(cpu, path); dir != "" {
		failed = append(failed, t.setCPU(dir, l))
	}
	if dir := t.folder(memory, path); dir != "" {
		failed = append(failed, t.setMemory(dir, l.Memory))
	}
	if dir := t.folder(pids, path); dir != "" {
		failed = append(failed, writeChanged(filepath.Join(dir, "pids.max"), orMax(l.Pids)))
	}
	if err := errors.Join(failed...); err != nil {
		return fmt.Errorf("limits of cgroup %s: %w", path, err)
	}
	return nil
}

func (t *Tree) folder(c controller, path string) string {
	if t.dirs[c] == "" {
		return ""
	}
	return filepath.Join(t.dirs[c], path)
}

func (t *Tree) setCPU(dir string, l Limits) error {
	unified := t.isUnified(cpu)
	var failed []error
	switch {
	case l.CPUShares == 0:
	case unified:
		failed = append(failed, writeChanged(filepath.Join(dir, "cpu.weight"), strconv.FormatUint(weight(l.CPUShares), 10)))
	default:
		failed = append(failed, writeChanged(filepath.Join(dir, "cpu.shares"), strconv.FormatUint(l.CPUShares, 10)))
	}
	quota, period := int64(-1), uint64(100000)
	if l.CPUQuota > 0 {
		quota, period = l.CPUQuota, l.CPUPeriod
	}
	if unified {
		value := orMax(quota) + " " + strconv.FormatUint(period, 10)
		return errors.Join(append(failed, writeChanged(filepath.Join(dir, "cpu.max"), value))...)
	}
	if !exists(filepath.Join(dir, "cpu.cfs_quota_us")) && quota < 0 {
		return errors.Join(failed...) // a kernel without bandwidth control
	}
	return errors.Join(append(failed,
		writeChanged(filepath.Join(dir, "cpu.cfs_period_us"), strconv.FormatUint(period, 10)),
		writeChanged(filepath.Join(dir, "cpu.cfs_quota_us"), strconv.FormatInt(quota, 10)))...)
}

// setMemory sets a limit unless more is in use now: v2 would kill processes for a lower one, v1 refuses it itself.
func (t *Tree) setMemory(dir string, limit int64) error {
	if !t.isUnified(memory) {
		if limit <= 0 {
			limit = -1
		}
		file := filepath.Join(dir, "memory.limit_in_bytes")
		if have := bound(file); have == limit || have < 0 && limit < 0 {
			return nil
		}
		return write(file, strconv.FormatInt(limit, 10))
	}
	if data, err := os.ReadFile(filepath.Join(dir, "memory.current")); err == nil && limit > 0 {
		if used, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64); err == nil && used > limit {
			return fmt.Errorf("memory: %d bytes are in use, more than the limit of %d", used, limit)
		}
	}
	return writeChanged(filepath.Join(dir, "memory.max"), orMax(limit))
}

// orMax formats a limit; no limit is the kernel's "max".
func orMax(limit int64) string {
	if limit <= 0 {
		return "max"
	}
	return strconv.FormatInt(limit, 10)
}

// writeChanged writes a value only if it differs, so that repeating it costs little.
func writeChanged(path, value string) error {
	if data, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(data)) == value {
		return nil
	}
	return write(path, value)
}

// weight converts shares to v2's weight: 2, 1024 and 262144 shares are 1, 100 and 10000, with a smooth curve between them, as
// runc computes it since version 1.3 (opencontainers/cgroups, ConvertCPUSharesToCgroupV2Value).
func weight(shares uint64) uint64 {
	shares = min(max(shares, MinShares), MaxShares)
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}

// Bounds are the limits of a cgroup and those above it together; -1 stands for no limit.
type Bounds struct{ Memory, Pids int64 }

// Bounds reads the limits of a path.
func (t *Tree) Bounds(path string) Bounds {
	b := Bounds{-1, -1}
	tighten := func(to *int64, file string) {
		if n := bound(file); n >= 0 && (*to < 0 || n < *to) {
			*to = n
		}
	}
	for at := filepath.Join("/", path); ; at = filepath.Dir(at) {
		if dir := t.folder(memory, at); dir != "" {
			if t.isUnified(memory) {
				tighten(&b.Memory, filepath.Join(dir, "memory.max"))
			} else {
				tighten(&b.Memory, filepath.Join(dir, "memory.limit_in_bytes"))
			}
		}
		if dir := t.folder(pids, at); dir != "" {
			tighten(&b.Pids, filepath.Join(dir, "pids.max"))
		}
		if at == "/" {
			return b
		}
	}
}

// unlimited is the least value that counts as no limit: v1 shows the largest number of bytes in whole pages.
const unlimited = math.MaxInt64 &^ (1<<20 - 1)

// bound reads a limit; -1 if there is none.
func bound(file string) int64 {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return -1
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	if err != nil || n >= unlimited {
		return -1
	}
	return n
}
