package cluster

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Binaries are the absolute paths of what a cluster runs.
type Binaries struct {
	Skepd string `json:"skepd"`
	Agent string `json:"agent"`
	DNS   string `json:"dns"`
	// Init is the command that becomes a host's first process; the path of its
	// configuration is added. It must end in RunInit.
	Init []string `json:"init"`
}

// BinariesIn finds the programs that `make build` leaves in one folder.
func BinariesIn(dir string) (Binaries, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Binaries{}, err
	}
	bin := Binaries{
		Skepd: filepath.Join(dir, "skepd"),
		Agent: filepath.Join(dir, "skep-agent"),
		DNS:   filepath.Join(dir, "skep-dns"),
		Init:  []string{filepath.Join(dir, "skep"), "node-init"},
	}
	for _, path := range []string{bin.Skepd, bin.Agent, bin.DNS, bin.Init[0]} {
		if _, err := os.Stat(path); err != nil {
			return Binaries{}, fmt.Errorf("%s is missing in %s: build it with `make build`, or install all four programs in one folder", filepath.Base(path), dir)
		}
	}
	return bin, nil
}

// Options describe the cluster that Up makes.
type Options struct {
	Name  string // DefaultName if empty
	Nodes int    // hosts to have; 0: as many as there are, or DefaultNodes
	// Servers is how many servers (skepd) to have; 0: as many as there are, or one.
	Servers int
	Dir     string // state folder; DefaultDir(Name) if empty
	Bin     Binaries
	// Progress gets a line per step; nil: none.
	Progress io.Writer
	// Zones spreads the hosts over that many zones by label; 0: no zone labels.
	Zones int
	// Labels are further labels of single hosts.
	Labels map[string]map[string]string
	// Outbound lets pods reach addresses outside this machine even if that
	// takes turning on its IP forwarding, which Down undoes.
	Outbound bool
	// LBCIDR are the addresses for services of type LoadBalancer; a part of the
	// bridge's own subnet if empty.
	LBCIDR string
	// Routed names new hosts to be placed behind a router, where they share no
	// link with any other but each other.
	Routed []string
	// NoDriverXDP names new hosts whose network card's driver supports no XDP
	// programs, as on many real hosts.
	NoDriverXDP []string
	// NoDNS leaves cluster DNS out.
	NoDNS bool
	// Bare makes hosts to install Skep on, with neither a control plane nor
	// agents: in the agent's place, this command is kept running on each host.
	Bare []string
	// SkepdArgs and AgentArgs are added to the programs' command lines, NodeArgs
	// to those of single hosts' agents.
	SkepdArgs, AgentArgs []string
	NodeArgs             map[string][]string
}

// Cluster is a handle on a cluster's state folder. It holds no state itself, so
// any number of processes may use the same cluster.
type Cluster struct {
	Name     string
	Dir      string
	progress io.Writer
	cgroups  cgroupRoots
}

// DefaultDir is the state folder of a cluster unless another is given.
func DefaultDir(name string) (string, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("%w: name the state folder with --dir", err)
	}
	return filepath.Join(home, ".skep", name), nil
}

// Load finds a cluster by its state folder.
func Load(dir string) (*Cluster, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	st, err := loadState(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no cluster in %s: %s", dir, whatExists(dir))
	}
	if err != nil {
		return nil, err
	}
	cgroups, err := findCgroups()
	if err != nil {
		return nil, err
	}
	return &Cluster{Name: st.Name, Dir: dir, progress: io.Discard, cgroups: cgroups}, nil
}

func whatExists(dir string) string {
	var names []string
	entries, _ := os.ReadDir(filepath.Dir(dir))
	for _, entry := range entries {
		if _, err := os.Stat(statePath(filepath.Join(filepath.Dir(dir), entry.Name()))); err == nil {
			names = append(names, entry.Name())
		}
	}
	if len(names) == 0 {
		return "start one with `skep up`"
	}
	return "there is " + strings.Join(names, ", ") + " (choose with --name)"
}

func newCluster(name, dir string, progress io.Writer) (*Cluster, error) {
	if name == "" {
		name = DefaultName
	}
	if err := ValidateName(name); err != nil {
		return nil, err
	}
	var err error
	if dir == "" {
		dir, err = DefaultDir(name)
	} else {
		dir, err = filepath.Abs(dir)
	}
	if err != nil {
		return nil, err
	}
	if progress == nil {
		progress = io.Discard
	}
	cgroups, err := findCgroups()
	if err != nil {
		return nil, err
	}
	return &Cluster{Name: name, Dir: dir, progress: progress, cgroups: cgroups}, nil
}

func (c *Cluster) say(format string, args ...any) {
	fmt.Fprintf(c.progress, format+"\n", args...)
}

func (c *Cluster) load() (*state, error) {
	st, err := loadState(c.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no cluster in %s: %s", c.Dir, whatExists(c.Dir))
	}
	return st, err
}

// change runs f on the state under the cluster's lock, and saves what f did
// also when it fails halfway: Down needs a record of what was started.
func (c *Cluster) change(f func(*state) error) error {
	unlock, err := lockDir(c.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no cluster in %s: %s", c.Dir, whatExists(c.Dir))
	}
	if err != nil {
		return err
	}
	defer unlock()
	st, err := c.load()
	if err != nil {
		return err
	}
	return errors.Join(f(st), st.save(c.Dir))
}

// Kubeconfig is the path of the admin's kubeconfig.
func (c *Cluster) Kubeconfig() string { return filepath.Join(c.Dir, "kubeconfig") }

// RESTConfig is the admin's access to the API.
func (c *Cluster) RESTConfig() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	return config, nil
}

// Client is the admin's access to the API.
func (c *Cluster) Client() (kubernetes.Interface, error) {
	config, err := c.RESTConfig()
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}

func (c *Cluster) nodeDir(node string) string  { return filepath.Join(c.Dir, node) }
func (c *Cluster) agentLog(node string) string { return filepath.Join(c.nodeDir(node), "agent.log") }
func (c *Cluster) skepdDir() string            { return filepath.Join(c.Dir, "skepd") }

// SkepdLog is where the control plane's output goes.
func (c *Cluster) SkepdLog() string { return filepath.Join(c.Dir, "skepd.log") }
