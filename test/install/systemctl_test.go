package install

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// A stand-in for systemd on hosts that have none: one process per host does
// what unit files say, and `systemctl` and `journalctl` in the PATH talk to it.

const (
	standInDir = "/run/stand-in"
	unitDir    = "/etc/systemd/system"
)

func standInSocket() string { return filepath.Join(standInDir, "systemctl.sock") }

type answer struct {
	Output string
	Code   int
}

// manager is the stand-in's state: units as they were read, services as they run.
type manager struct {
	mu       sync.Mutex
	units    map[string]*unit
	services map[string]*service
	cgroups  string // root of the v2 hierarchy
}

// serveStandIn runs until it is killed with its host.
func serveStandIn() error {
	m := &manager{units: map[string]*unit{}, services: map[string]*service{}}
	for _, root := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		var st unix.Statfs_t
		if unix.Statfs(root, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			m.cgroups = root
			break
		}
	}
	if m.cgroups == "" {
		return errors.New("no cgroup v2 hierarchy on this host")
	}
	if err := os.MkdirAll(filepath.Join(standInDir, "bin"), 0o755); err != nil {
		return err
	}
	for _, name := range []string{"systemctl", "journalctl"} {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		if err := os.Symlink(self, filepath.Join(standInDir, "bin", name)); err != nil {
			return err
		}
	}
	listener, err := net.Listen("unix", standInSocket())
	if err != nil {
		return err
	}
	if err := m.startEnabled(); err != nil {
		return err
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			var arguments []string
			if json.NewDecoder(conn).Decode(&arguments) == nil {
				_ = json.NewEncoder(conn).Encode(m.answer(arguments))
			}
		}()
	}
}

// startEnabled is what happens at boot. The machine's own units, which the host
// sees enabled too, are elsewhere.
func (m *manager) startEnabled() error {
	links, err := filepath.Glob(filepath.Join(unitDir, "multi-user.target.wants", "*.service"))
	if err != nil {
		return err
	}
	for _, link := range links {
		if to, err := os.Readlink(link); err != nil || filepath.Dir(to) != unitDir {
			continue
		}
		if a := m.answer([]string{"start", filepath.Base(link)}); a.Code != 0 {
			fmt.Fprint(os.Stderr, a.Output) // it is tried again, as its unit says
		}
	}
	return nil
}

// systemctl is the client's side.
func systemctl(arguments []string) int {
	conn, err := net.Dial("unix", standInSocket())
	if err == nil {
		defer conn.Close()
		var got answer
		if err = json.NewEncoder(conn).Encode(arguments); err == nil {
			if err = json.NewDecoder(conn).Decode(&got); err == nil {
				fmt.Fprint(os.Stderr, got.Output)
				return got.Code
			}
		}
	}
	fmt.Fprintln(os.Stderr, "systemctl:", err)
	return 1
}

// journalctl prints what a unit has written: journalctl -u UNIT.
func journalctl(arguments []string) int {
	i := slices.Index(arguments, "-u")
	if i < 0 || i+1 >= len(arguments) {
		fmt.Fprintln(os.Stderr, "journalctl: the stand-in knows -u UNIT")
		return 1
	}
	fmt.Println(lastLines(logOf(unitName(arguments[i+1])), 50))
	return 0
}

func logOf(unit string) string { return filepath.Join(standInDir, unit+".log") }

func unitName(name string) string {
	if strings.Contains(name, ".") {
		return name
	}
	return name + ".service"
}

func (m *manager) answer(arguments []string) answer {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	now := false
	if len(arguments) == 5 && strings.Join(arguments[:4], " ") == "show -p MainPID --value" {
		return m.mainPID(unitName(arguments[4]))
	}
	for _, argument := range arguments[min(1, len(arguments)):] {
		switch {
		case argument == "--now":
			now = true
		case argument == "--no-pager":
		case strings.HasPrefix(argument, "-"):
			return answer{"the stand-in for systemctl does not know " + argument + "\n", 1}
		default:
			names = append(names, unitName(argument))
		}
	}
	if len(arguments) == 0 {
		return answer{"the stand-in for systemctl wants a verb\n", 1}
	}
	if arguments[0] == "daemon-reload" {
		m.units = map[string]*unit{}
		return answer{}
	}
	for _, name := range names {
		if err := m.do(arguments[0], name, now); err != nil {
			return answer{err.Error() + "\n", 1}
		}
	}
	return answer{}
}

func (m *manager) mainPID(name string) answer {
	s := m.services[name]
	if s == nil {
		return answer{"0\n", 0}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return answer{fmt.Sprintln(s.pid), 0}
}

func (m *manager) do(verb, name string, now bool) error {
	switch verb {
	case "start":
		return m.start(name)
	case "stop":
		return m.stop(name)
	case "restart":
		if err := m.stop(name); err != nil {
			return err
		}
		return m.start(name)
	case "enable":
		if err := m.enable(name); err != nil || !now {
			return err
		}
		return m.start(name)
	case "disable":
		if err := m.disable(name); err != nil || !now {
			return err
		}
		return m.stop(name)
	case "is-active":
		if s := m.services[name]; s == nil || !s.active() {
			return errors.New("inactive")
		}
		return nil
	}
	return fmt.Errorf("the stand-in for systemctl does not know the verb %s", verb)
}

// load reads the unit file once; what it says later counts after daemon-reload.
func (m *manager) load(name string) (*unit, error) {
	if u := m.units[name]; u != nil {
		return u, nil
	}
	text, err := os.ReadFile(filepath.Join(unitDir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("Unit %s not found.", name)
	}
	if err != nil {
		return nil, err
	}
	u, err := parseUnit(name, string(text))
	if err != nil {
		return nil, err
	}
	m.units[name] = u
	return u, nil
}

func (m *manager) start(name string) error {
	if m.services[name] != nil {
		return nil
	}
	u, err := m.load(name)
	if err != nil {
		return err
	}
	s, err := startService(u, m.cgroup(name), logOf(name))
	m.services[name] = s // also after a failed start: it is tried again
	return err
}

func (m *manager) cgroup(name string) string { return filepath.Join(m.cgroups, "system.slice", name) }

func (m *manager) stop(name string) error {
	s := m.services[name]
	if s == nil {
		return nil
	}
	s.stop()
	<-s.ended
	delete(m.services, name)
	return nil
}

func (m *manager) enable(name string) error {
	u, err := m.load(name)
	if err != nil {
		return err
	}
	for _, target := range u.wantedBy {
		dir := filepath.Join(unitDir, target+".wants")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		link := filepath.Join(dir, name)
		if err := os.Symlink(filepath.Join(unitDir, name), link); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

func (m *manager) disable(name string) error {
	links, err := filepath.Glob(filepath.Join(unitDir, "*.wants", name))
	if err != nil {
		return err
	}
	for _, link := range links {
		if err := os.Remove(link); err != nil {
			return err
		}
	}
	return nil
}
