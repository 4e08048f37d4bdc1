package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// process identifies one process: a pid that was reused by another process, or
// that belongs to an earlier boot of the machine, does not match.
type process struct {
	PID    int    `json:"pid"`
	Start  uint64 `json:"start"` // clock ticks since boot, field 22 of /proc/PID/stat
	BootID string `json:"bootID"`
}

// state is what must survive the process that runs `skep up`. It is stored in
// state.json and changes only under the folder's lock.
type state struct {
	Name     string                `json:"name"`
	Subnet   int                   `json:"subnet"` // N of 198.18.N.0/24
	Skepd    process               `json:"skepd"`
	Further  []*further            `json:"furtherServers,omitempty"` // besides the one that Skepd is
	Nodes    map[string]*nodeState `json:"nodes"`
	Outbound outboundState         `json:"outbound"`
	IPv6     bool                  `json:"ipv6,omitempty"`   // hosts, pods and services have it beside IPv4
	LBCIDR   string                `json:"lbCIDR,omitempty"` // what the user chose instead of the bridge's
	// What `up` was last asked to run; hosts that boot later run the same.
	Bin       Binaries `json:"bin"`
	SkepdArgs []string `json:"skepdArgs,omitempty"`
	AgentArgs []string `json:"agentArgs,omitempty"`
	Bare      []string `json:"bare,omitempty"`
}

type nodeState struct {
	Index  int               `json:"index"`
	Init   process           `json:"init"`
	Cut    bool              `json:"cut,omitempty"`
	Routed bool              `json:"routed,omitempty"` // behind the router, on no link with the others
	NoXDP  bool              `json:"noXDP,omitempty"`  // in its card's driver
	Labels map[string]string `json:"labels,omitempty"`
	Args   []string          `json:"args,omitempty"` // of its agent, as `up` was last given
}

func (s *state) nodeNames() []string {
	names := make([]string, 0, len(s.Nodes))
	for name := range s.Nodes {
		names = append(names, name)
	}
	sort.Slice(names, func(i, j int) bool { return s.Nodes[names[i]].Index < s.Nodes[names[j]].Index })
	return names
}

func statePath(dir string) string { return filepath.Join(dir, "state.json") }

func loadState(dir string) (*state, error) {
	data, err := os.ReadFile(statePath(dir))
	if err != nil {
		return nil, err
	}
	s := &state{}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("%s is damaged (%w): remove the cluster with `skep down` and start it again", statePath(dir), err)
	}
	if s.Nodes == nil {
		s.Nodes = map[string]*nodeState{}
	}
	return s, nil
}

// save replaces state.json in one step, so that a crash leaves the old or the new one.
func (s *state) save(dir string) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return writeFileAtomically(statePath(dir), append(data, '\n'), 0o600)
}

func writeFileAtomically(path string, data []byte, mode fs.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Chmod(mode), tmp.Close())
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// lockDir serialises commands on one cluster. The lock is on the folder itself,
// so nothing remains when `down` removes it; a process that waited for a folder
// that was removed meanwhile tries again with the new one.
func lockDir(dir string) (unlock func(), err error) {
	for {
		f, err := os.Open(dir)
		if err != nil {
			return nil, err
		}
		if err := retryInterrupted(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX) }); err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
		held, err1 := f.Stat()
		now, err2 := os.Stat(dir)
		if err1 == nil && err2 == nil && os.SameFile(held, now) {
			return func() { f.Close() }, nil
		}
		f.Close()
		if err2 != nil {
			return nil, err2
		}
	}
}

func retryInterrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

func bootID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

func identify(pid int) (process, error) {
	start, _, err := processStart(pid)
	if err != nil {
		return process{}, err
	}
	return process{PID: pid, Start: start, BootID: bootID()}, nil
}

// alive reports whether the same process still runs. A zombie does not.
func (p process) alive() bool {
	if p.PID == 0 || p.BootID != bootID() {
		return false
	}
	start, status, err := processStart(p.PID)
	return err == nil && start == p.Start && status != 'Z' && status != 'X'
}

func processStart(pid int) (start uint64, status byte, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// The command in field 2 may hold spaces and parentheses; fields count from its last ')'.
	text := string(data)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 20 {
		return 0, 0, fmt.Errorf("/proc/%d/stat: unexpected format", pid)
	}
	if _, err := fmt.Sscan(fields[19], &start); err != nil {
		return 0, 0, fmt.Errorf("/proc/%d/stat: start time: %w", pid, err)
	}
	return start, fields[0][0], nil
}
