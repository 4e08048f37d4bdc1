package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/backoff"
)

// hostConfig is the configuration of a host's first process, in nodeK/host.json.
type hostConfig struct {
	Hostname string   `json:"hostname"`
	Agent    []string `json:"agent"`
	Log      string   `json:"log"`
	// Cgroup is the folder of the host's daemons. The process is started in it in
	// the v2 hierarchy and joins the same path in the v1 hierarchies itself.
	Cgroup      string   `json:"cgroup"`
	Disk        string   `json:"disk,omitempty"` // the folder of a bare host's own files
	Nameservers []string `json:"nameservers"`
	Hosts       []string `json:"hosts"` // lines of /etc/hosts
	// Server is the command of a server (skepd), which is not a host's: all else but Log is empty then.
	Server []string `json:"server,omitempty"`
}

const (
	restartDelayMin = 100 * time.Millisecond
	restartDelayMax = time.Second
	// An agent that ran this long was healthy: its next restart is quick again.
	restartDelayReset = 10 * time.Second
	// readyFD is where the first process reports that the host is set up: it
	// closes it, or writes an error first.
	readyFD = 3
)

// RunInit is the first process of a virtual host. It is started inside the
// host's namespaces and cgroup, mounts what makes the host its own, and then
// keeps the agent running until it gets SIGTERM.
func RunInit(configPath string) error {
	config, err := readHostConfig(configPath)
	if err == nil && len(config.Server) > 0 {
		return keepServer(config)
	}
	ready := os.NewFile(readyFD, "ready")
	if err == nil && config.Disk != "" {
		var again bool
		if again, err = isolateBare(config); err == nil && again {
			err = syscall.Exec("/proc/self/exe", os.Args, os.Environ())
		}
	}
	syscall.CloseOnExec(readyFD)
	if err == nil {
		err = setUpHost(config)
	}
	if err != nil {
		fmt.Fprintln(ready, err)
		return err
	}
	// Daemons that outlive the agent become children of this process, as they would of systemd.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return err
	}
	ready.Close()
	return supervise(config)
}

func setUpHost(config *hostConfig) error {
	if config.Disk == "" {
		if err := joinV1Cgroups(config.Cgroup); err != nil {
			return err
		}
	}
	return errors.Join(mountHost(config), unix.Sethostname([]byte(config.Hostname)))
}

func readHostConfig(path string) (*hostConfig, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	config := &hostConfig{}
	if err := json.Unmarshal(data, config); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return config, nil
}

// joinV1Cgroups accounts the daemons' resources below the host's folder on
// machines whose controllers are on v1. It skips cpuset, whose folders accept no
// process before their CPUs are set, and which accounts for nothing.
func joinV1Cgroups(cgroup string) error {
	roots, err := findCgroups()
	if err != nil {
		return err
	}
	for _, root := range roots.v1 {
		if strings.Contains(filepath.Base(root), "cpuset") {
			continue
		}
		folder := filepath.Join(root, cgroup)
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return fmt.Errorf("cgroup: %w", err)
		}
		if err := os.WriteFile(filepath.Join(folder, "cgroup.procs"), []byte("0"), 0o644); err != nil {
			return fmt.Errorf("cgroup: join: %w", err)
		}
	}
	return nil
}

// mountHost gives the host what it must not share with the machine: /run with its
// sockets and the runtime's state, a BPF file system for pins, and the files with
// its name and resolvers.
func mountHost(config *hostConfig) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	resolvConf, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err != nil {
		resolvConf = "/etc/resolv.conf"
	}
	if config.Disk != "" {
		if err := mountDisk(config.Disk); err != nil {
			return err
		}
	}
	if err := unmountBelow("/run"); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	if err := unix.Mount("bpf", "/sys/fs/bpf", "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=700"); err != nil {
		return fmt.Errorf("mount /sys/fs/bpf: %w", err)
	}
	var resolvers strings.Builder
	for _, server := range config.Nameservers {
		fmt.Fprintf(&resolvers, "nameserver %s\n", server)
	}
	return errors.Join(
		overlayFile("/etc/hostname", config.Hostname+"\n"),
		overlayFile("/etc/hosts", strings.Join(config.Hosts, "\n")+"\n"),
		overlayFile(resolvConf, resolvers.String()),
	)
}

// unmountBelow unmounts the copies of the machine's mounts, the other hosts' and
// this host's namespaces among them, which a copy would keep after their end.
func unmountBelow(dir string) error {
	points, err := mountPoints(dir)
	if err != nil {
		return err
	}
	for i := len(points) - 1; i >= 0; i-- {
		if points[i] == dir {
			continue
		}
		if err := unix.Unmount(points[i], unix.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) {
			return fmt.Errorf("unmount %s: %w", points[i], err)
		}
	}
	return nil
}

// overlayFile gives this host alone the content at path, by a bind mount from its
// /run. Below /run itself, a plain file is enough.
func overlayFile(path, content string) error {
	own := path
	if !strings.HasPrefix(path, "/run/") {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return nil // the machine has no such file; making one would show outside
		}
		own = filepath.Join("/run/skep-host", filepath.Base(path))
	}
	if err := os.MkdirAll(filepath.Dir(own), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(own, []byte(content), 0o644); err != nil {
		return err
	}
	if own == path {
		return nil
	}
	if err := unix.Mount(own, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount over %s: %w", path, err)
	}
	return nil
}

// supervise starts the agent again whenever it ends, and reaps orphans.
func supervise(config *hostConfig) error {
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT)

	delay := backoff.New(restartDelayMin, restartDelayMax)
	restart := time.After(0)
	var agent int
	var started time.Time
	stopping := false
	for {
		select {
		case <-restart:
			pid, err := startAgent(config)
			if err != nil {
				after := delay.Next()
				slog.Error("skep-agent does not start", "err", err, "retry", after)
				restart = time.After(after)
				continue
			}
			agent, started = pid, time.Now()
		case <-children:
			status, ended := reap(agent)
			if !ended {
				continue
			}
			agent = 0
			if stopping {
				return nil
			}
			if time.Since(started) > restartDelayReset {
				delay.Reset()
			}
			after := delay.Next()
			slog.Warn("skep-agent ended", "status", status, "restart", after)
			restart = time.After(after)
		case <-stop:
			if stopping = true; agent == 0 {
				return nil
			}
			_ = unix.Kill(agent, unix.SIGTERM)
		}
	}
}

func startAgent(config *hostConfig) (int, error) {
	log, err := os.OpenFile(config.Log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	process, err := os.StartProcess(config.Agent[0], config.Agent, &os.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []*os.File{null, log, log},
		// Its own group: a signal to the agent's group must not reach this process.
		Sys: &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return 0, err
	}
	pid := process.Pid
	return pid, process.Release() // reap waits for it, by pid
}

// reap collects every child that has ended and returns the agent's exit status.
func reap(agent int) (agentStatus string, agentEnded bool) {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return agentStatus, agentEnded
		}
		if pid != agent {
			continue
		}
		agentEnded = true
		if status.Signaled() {
			agentStatus = "killed by " + status.Signal().String()
		} else {
			agentStatus = fmt.Sprintf("exit code %d", status.ExitStatus())
		}
	}
}
