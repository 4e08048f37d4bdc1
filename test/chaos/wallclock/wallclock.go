// Package wallclock shifts the wall clock of one running process, as if somebody had set it: the others' and its monotonic clock stay. It
// replaces the function by which the process reads clocks, in its copy of the kernel's vDSO, so that it works for static programs too.
// Only amd64 is known to it.
package wallclock

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// reader is the function that Go's runtime and the C library call.
const reader = "__vdso_clock_gettime"

// Shift adds a duration, of which the full seconds count, to what a process reads as the time of day, until restore.
func Shift(pid int, by time.Duration) (restore func() error, err error) {
	if runtime.GOARCH != "amd64" {
		return nil, fmt.Errorf("the clock of a process can be shifted on amd64 only, not on %s", runtime.GOARCH)
	}
	began, err := startOf(pid)
	if err != nil {
		return nil, err
	}
	code, err := find(pid)
	if err != nil {
		return nil, err
	}
	shifted := shifting(by)
	if code.size < len(shifted) {
		return nil, fmt.Errorf("%s of process %d has %d bytes, %d are needed", reader, pid, code.size, len(shifted))
	}
	original, err := code.replace(shifted)
	if err != nil {
		return nil, err
	}
	return func() error {
		if now, err := startOf(pid); err != nil || now != began {
			return nil // it has ended, and its clock with it
		}
		_, err := code.replace(original)
		return err
	}, nil
}

// shifting is the function: the system call, then the seconds are added if the clock is CLOCK_REALTIME, which is 0.
func shifting(by time.Duration) []byte {
	code := []byte{
		0xb8, unix.SYS_CLOCK_GETTIME, 0, 0, 0, // mov eax, SYS_clock_gettime
		0x0f, 0x05, // syscall
		0x85, 0xff, // test edi, edi
		0x75, 13, // jne the ret
		0x48, 0xb9, // mov rcx, seconds
	}
	code = binary.LittleEndian.AppendUint64(code, uint64(int64(by/time.Second)))
	return append(code,
		0x48, 0x01, 0x0e, // add [rsi], rcx
		0xc3) // ret
}

// function is where the code is in the process.
type function struct {
	pid        int
	at         uint64
	size       int
	begin, end uint64 // of the vDSO
}

func find(pid int) (*function, error) {
	f := &function{pid: pid}
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(maps)) {
		if strings.HasSuffix(strings.TrimSpace(line), "[vdso]") {
			if _, err := fmt.Sscanf(line, "%x-%x", &f.begin, &f.end); err != nil {
				return nil, fmt.Errorf("/proc/%d/maps: %q: %w", pid, line, err)
			}
		}
	}
	if f.end == 0 {
		return nil, fmt.Errorf("process %d has no vDSO", pid)
	}
	image := make([]byte, f.end-f.begin)
	if err := f.memory(os.O_RDONLY, func(m *os.File) error { _, err := m.ReadAt(image, int64(f.begin)); return err }); err != nil {
		return nil, err
	}
	file, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return nil, fmt.Errorf("vDSO of process %d: %w", pid, err)
	}
	symbols, err := file.DynamicSymbols()
	if err != nil {
		return nil, fmt.Errorf("vDSO of process %d: %w", pid, err)
	}
	for _, s := range symbols {
		if s.Name == reader {
			f.at, f.size = f.begin+s.Value, int(s.Size)
			return f, nil
		}
	}
	return nil, fmt.Errorf("the vDSO of process %d has no %s", pid, reader)
}

func (f *function) memory(mode int, do func(*os.File) error) error {
	m, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", f.pid), mode, 0)
	if err != nil {
		return err
	}
	defer m.Close()
	return do(m)
}

// replace writes other code while the process is stopped, at a moment when none of its threads is in the vDSO.
func (f *function) replace(code []byte) (old []byte, err error) {
	old = make([]byte, len(code))
	for deadline := time.Now().Add(10 * time.Second); ; {
		if err := unix.Kill(f.pid, unix.SIGSTOP); err != nil {
			return nil, fmt.Errorf("stop process %d: %w", f.pid, err)
		}
		inside, err := f.threadsInside(deadline)
		if err == nil && !inside {
			err = f.memory(os.O_RDWR, func(m *os.File) error {
				if _, err := m.ReadAt(old, int64(f.at)); err != nil {
					return err
				}
				_, err := m.WriteAt(code, int64(f.at))
				return err
			})
		}
		if err := errors.Join(err, unix.Kill(f.pid, unix.SIGCONT)); err != nil || !inside {
			return old, err
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("process %d is always reading its clock", f.pid)
		}
	}
}

// threadsInside waits until all threads stand, and says whether one stands in the vDSO.
func (f *function) threadsInside(deadline time.Time) (bool, error) {
	dir := fmt.Sprintf("/proc/%d/task", f.pid)
	threads, err := os.ReadDir(dir)
	if err != nil {
		return false, err
	}
	for _, thread := range threads {
		path := filepath.Join(dir, thread.Name())
		for {
			status, err := os.ReadFile(filepath.Join(path, "stat"))
			if errors.Is(err, os.ErrNotExist) {
				break // the thread has ended
			}
			if err != nil {
				return false, err
			}
			if state := status[bytes.LastIndexByte(status, ')')+2]; state == 'T' || state == 't' {
				break
			}
			if time.Now().After(deadline) {
				return false, fmt.Errorf("process %d does not stop", f.pid)
			}
		}
		// "NUMBER ARGUMENTS... SP PC" in a system call, "-1 SP PC" outside.
		text, err := os.ReadFile(filepath.Join(path, "syscall"))
		fields := strings.Fields(string(text))
		if err != nil || len(fields) < 3 {
			continue
		}
		pc, err := strconv.ParseUint(fields[len(fields)-1], 0, 64)
		if err != nil {
			return false, fmt.Errorf("%s/syscall: %q: %w", path, text, err)
		}
		if pc >= f.begin && pc < f.end {
			return true, nil
		}
	}
	return false, nil
}

// startOf tells a process from a later one with its number.
func startOf(pid int) (string, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return "", fmt.Errorf("process %d has ended", pid)
	}
	return fields[19], nil
}
