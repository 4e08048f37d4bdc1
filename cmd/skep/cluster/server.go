package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Server is one of the cluster's servers.
type Server struct {
	cluster *Cluster
	Number  int // from 1 on
	URL     string
}

// Server finds a server by its number, from 1 on.
func (c *Cluster) Server(number int) (*Server, error) {
	urls, err := c.Servers()
	if err != nil {
		return nil, err
	}
	if number < 1 || number > len(urls) {
		return nil, fmt.Errorf("no server %d in cluster %q: there are %d", number, c.Name, len(urls))
	}
	return &Server{cluster: c, Number: number, URL: urls[number-1]}, nil
}

// ServerDir is the --data-dir of a server.
func (c *Cluster) ServerDir(number int) string {
	if number == 1 {
		return c.skepdDir()
	}
	return c.serverDir(number)
}

// Kubeconfig is the administrator's, for this server.
func (s *Server) Kubeconfig() string {
	return filepath.Join(s.cluster.ServerDir(s.Number), "admin.kubeconfig")
}

// LogPath is where its output goes.
func (s *Server) LogPath() string {
	if s.Number == 1 {
		return s.cluster.SkepdLog()
	}
	return s.cluster.ServerLog(s.Number)
}

// Group is its cgroup's path below the roots of all hierarchies; it is removed with the server in all of them.
func (s *Server) Group() string {
	return clusterCgroup(s.cluster.Name) + "/" + filepath.Base(s.cluster.ServerDir(s.Number))
}

// CgroupPath is its folder in the v2 hierarchy.
func (s *Server) CgroupPath() string { return filepath.Join(s.cluster.cgroups.v2, s.Group()) }

// keeper is the process that starts it again.
func (s *Server) keeper(st *state) *process {
	if s.Number == 1 {
		return &st.Skepd
	}
	return &st.Further[s.Number-2].Skepd
}

// PIDs are its processes, that which starts skepd again first.
func (s *Server) PIDs() (pids []int) {
	st, err := s.cluster.load()
	if err != nil || !s.keeper(st).alive() {
		return nil
	}
	pids = []int{s.keeper(st).PID}
	data, err := os.ReadFile(filepath.Join(s.CgroupPath(), "cgroup.procs"))
	if err != nil {
		return nil
	}
	for _, field := range strings.Fields(string(data)) {
		if pid, err := strconv.Atoi(field); err == nil && pid != pids[0] {
			pids = append(pids, pid)
		}
	}
	return pids
}

// PID is skepd's process, 0 if it does not run.
func (s *Server) PID() int {
	if pids := s.PIDs(); len(pids) > 1 {
		return pids[1]
	}
	return 0
}

// Signal sends skepd a signal; SIGKILL has it started again.
func (s *Server) Signal(signal unix.Signal) error {
	pid := s.PID()
	if pid == 0 {
		return fmt.Errorf("server %d does not run", s.Number)
	}
	return unix.Kill(pid, signal)
}

// Kill ends it with SIGKILL and returns when it has ended; nothing starts it again until Start.
func (s *Server) Kill(ctx context.Context) error {
	return s.cluster.change(func(st *state) error {
		if err := s.cluster.cgroups.kill(ctx, s.Group()); err != nil {
			return err
		}
		*s.keeper(st) = process{} // it may still be exiting, and must not be taken for running
		return nil
	})
}

// Start starts it again after Kill, and does not wait until it is ready. Starting a running one is no error.
func (s *Server) Start(ctx context.Context) error {
	return s.cluster.change(func(st *state) error {
		if s.Number == 1 {
			return s.cluster.startSkepd(ctx, st)
		}
		if !s.cluster.hasJoined(s.Number) {
			return errors.New("it has not joined yet: that is for `skep up`")
		}
		return s.cluster.startFurther(ctx, st, st.Further[s.Number-2], nil)
	})
}

// Port is the bridge's end of the host's cable.
func (n *Node) Port() string { return portName(n.cluster.Name, n.Index) }
