package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"

	"github.com/skep-io/skep/agent/cgroup"
)

// Namespace is the agent's containerd namespace.
const Namespace = "skep"

// Logs provides the FIFOs for a container's output. A process that outlives the agent reads them.
// With live set, unfinished lines can be read at once.
type Logs interface {
	Open(podUID, container string, attempt int, containerID string, live bool) (stdout, stderr string, err error)
	Close(containerID string)
	// Retain closes the logs of all containers except those for which keep is true.
	Retain(keep func(containerID string) bool)
}

// Config configures the runtime of a node.
type Config struct {
	CgroupParent string // path under the cgroup root; pods' cgroups are below it
	StateDir     string // survives a reboot
	RunDir       string // may be lost at a reboot
	Logs         Logs
	HostsDir     string // registry host configuration; /etc/containerd/certs.d when empty
	Snapshotter  string // overlayfs when empty
	// PullStall is how long a pull waits for a registry that sends nothing; a
	// minute when 0.
	PullStall time.Duration
}

// Runtime is the node's containers. All methods may be called concurrently.
type Runtime struct {
	cfg     Config
	client  *containerd.Client
	cgroups *cgroup.Tree

	mu         sync.Mutex
	containers map[string]*entry // by container ID
	preparing  map[string]string // digests of the images of root file systems that have no entry yet, by ID
	subscriber func(Container)

	images  imageCache
	pulls   pullGroup
	locks   sync.Map   // pod UID -> *sync.Mutex: the first task of a pod starts its shim, the last ends it
	records sync.Mutex // held while a record is written
	work    sync.WaitGroup
	open    context.Context // ends with Close
	close   func()

	users        sync.Mutex // held while a range of IDs is allocated
	featuresOnce sync.Once
	features     Features
}

type entry struct {
	Container
	exited chan struct{} // closed when State is Exited

	reapNow chan struct{} // closed by hurry
	hurry   func()
	reaped  chan struct{} // closed when containerd has nothing of it any more

	kept    context.Context // ends with abandon, when its record will be removed anyway
	abandon func()
}

func newEntry(c Container) *entry {
	e := &entry{Container: c, exited: make(chan struct{}), reapNow: make(chan struct{}), reaped: make(chan struct{})}
	e.hurry = sync.OnceFunc(func() { close(e.reapNow) })
	e.kept, e.abandon = context.WithCancel(context.Background())
	return e
}

// Connect connects to containerd and adopts its containers. Run reads the event stream.
func Connect(ctx context.Context, address string, cfg Config) (*Runtime, error) {
	if cfg.Logs == nil {
		return nil, errors.New("runtime: Config.Logs is required")
	}
	if cfg.HostsDir == "" {
		cfg.HostsDir = "/etc/containerd/certs.d"
	}
	if cfg.Snapshotter == "" {
		cfg.Snapshotter = "overlayfs"
	}
	// Streams of commands that an earlier agent ran: their readers have ended.
	if err := os.RemoveAll(filepath.Join(cfg.RunDir, "fifo")); err != nil {
		return nil, fmt.Errorf("runtime folder: %w", err)
	}
	for _, dir := range []string{filepath.Join(cfg.StateDir, "pods"), filepath.Join(cfg.RunDir, "pods"), filepath.Join(cfg.RunDir, "fifo")} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("runtime folder: %w", err)
		}
	}
	client, err := containerd.New(address, containerd.WithDefaultNamespace(Namespace), containerd.WithTimeout(2*time.Second),
		containerd.WithExtraDialOpts([]grpc.DialOption{grpc.WithChainUnaryInterceptor(boundCall)}))
	if err != nil {
		return nil, fmt.Errorf("connect to containerd: %w", err)
	}
	wait, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if _, err := client.IsServing(wait); err != nil {
		client.Close()
		return nil, fmt.Errorf("containerd does not answer on %s: %w; is it running?", address, err)
	}
	r := &Runtime{
		cfg: cfg, client: client, cgroups: cgroup.Open(cgroup.Root, cfg.CgroupParent),
		containers: map[string]*entry{}, preparing: map[string]string{},
	}
	r.open, r.close = context.WithCancel(context.Background())
	r.images.init()
	r.pulls.init()
	if err := r.dropOldLeases(r.ctx(wait)); err != nil {
		client.Close()
		return nil, err
	}
	r.removeMappings()
	if err := r.adopt(r.ctx(ctx), true); err != nil {
		client.Close()
		return nil, err
	}
	return r, nil
}

func (r *Runtime) ctx(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, Namespace)
}

// Close waits for clean-up in flight and closes the connection. Containers keep running.
func (r *Runtime) Close() error {
	r.close()
	r.work.Wait()
	return r.client.Close()
}

// Subscribe sets the one function that is called at every exit, before anything is cleaned up. It
// must not block.
func (r *Runtime) Subscribe(f func(Container)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.subscriber = f
}

// Version is containerd's.
func (r *Runtime) Version(ctx context.Context) (string, error) {
	v, err := r.client.Version(r.ctx(ctx))
	return v.Version, err
}

// Containers returns every known container, ordered by pod, name and attempt.
func (r *Runtime) Containers() []Container {
	r.mu.Lock()
	list := make([]Container, 0, len(r.containers))
	for _, e := range r.containers {
		list = append(list, e.Container)
	}
	r.mu.Unlock()
	sort.Slice(list, func(i, j int) bool {
		a, b := list[i], list[j]
		if a.PodUID != b.PodUID {
			return a.PodUID < b.PodUID
		}
		if a.Name != b.Name {
			return a.Name < b.Name
		}
		return a.Attempt < b.Attempt
	})
	return list
}

// Container returns one by its ID.
func (r *Runtime) Container(id string) (Container, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e, ok := r.containers[id]; ok {
		return e.Container, true
	}
	return Container{}, false
}

func (r *Runtime) lookup(id string) (*entry, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := r.containers[id]
	return e, ok
}

// adopt builds the list of containers from containerd and the records on disk. It also runs after
// the event stream was lost, to find what happened meanwhile. Records are read the first time only:
// later the list in memory is newer.
func (r *Runtime) adopt(ctx context.Context, first bool) error {
	live, err := r.client.ContainerService().List(ctx)
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	asOf := time.Now()
	response, err := r.client.TaskService().List(ctx, &tasks.ListTasksRequest{})
	if err != nil {
		return fmt.Errorf("list tasks: %w", errgrpc.ToNative(err))
	}
	byID := map[string]*tasktypes.Process{}
	for _, t := range response.Tasks {
		byID[t.ID] = t
	}
	var records map[string]Container
	if first {
		records = r.readRecords()
	}
	present := map[string]bool{}
	for _, m := range live {
		if m.Labels[labelPodUID] == "" {
			continue // not ours
		}
		present[m.ID] = true
		if first {
			r.adoptOne(ctx, m, byID[m.ID], records)
		} else {
			r.reconcile(m, byID[m.ID], asOf)
		}
	}
	if first {
		r.cfg.Logs.Retain(func(id string) bool { return present[id] })
		r.retainStdin(present)
	}
	r.mu.Lock()
	for id, record := range records {
		if _, known := r.containers[id]; known || present[id] {
			continue
		}
		c := record
		if c.State != Exited {
			markLost(&c)
		}
		r.containers[id] = exitedEntry(c)
	}
	r.mu.Unlock()
	return r.removeStraySnapshots(ctx, present)
}

// adoptOne adopts or removes one container that an earlier agent left in containerd.
func (r *Runtime) adoptOne(ctx context.Context, m containers.Container, task *tasktypes.Process, records map[string]Container) {
	c, err := fromLabels(m)
	if err != nil {
		slog.Warn("container cannot be adopted; removing it", "err", err)
		r.discard(ctx, m.ID)
		return
	}
	record, recorded := records[m.ID]
	if recorded {
		c = record
	}
	switch {
	case task == nil && recorded && c.State == Exited:
		r.insert(exitedEntry(c))
		r.cleanUp(c.ID)
	case task == nil && recorded:
		markLost(&c)
		_ = r.writeRecord(&c)
		r.insert(exitedEntry(c))
		r.cleanUp(c.ID)
	case task == nil || task.Status == tasktypes.Status_CREATED:
		// The agent ended between create and start: the container never ran.
		r.discard(ctx, m.ID)
	case task.Status == tasktypes.Status_STOPPED:
		if c.StartedAt.IsZero() {
			c.StartedAt = c.CreatedAt
		}
		c.State = Running
		r.insert(newEntry(c))
		r.exited(m.ID, int(task.ExitStatus), task.ExitedAt.AsTime())
	default:
		c.State, c.Pid = Running, int(task.Pid)
		if c.StartedAt.IsZero() {
			c.StartedAt = c.CreatedAt
		}
		if !recorded {
			_ = r.writeRecord(&c)
		}
		r.insert(newEntry(c))
	}
}

// reconcileKnown finds exits that the event stream did not deliver. A container that started after
// the list was read is skipped.
func (r *Runtime) reconcileKnown(e *entry, task *tasktypes.Process, asOf time.Time) {
	r.mu.Lock()
	skip := e.State != Running || e.StartedAt.After(asOf)
	r.mu.Unlock()
	if skip {
		return
	}
	switch {
	case task == nil:
		r.exited(e.ID, exitLost, time.Now())
	case task.Status == tasktypes.Status_STOPPED:
		r.exited(e.ID, int(task.ExitStatus), task.ExitedAt.AsTime())
	}
}

func (r *Runtime) insert(e *entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.containers[e.ID] = e
}

func exitedEntry(c Container) *entry {
	e := newEntry(c)
	close(e.exited)
	close(e.reaped)
	return e
}

// exitLost is the exit code of a container whose exit was not observed, such as at a reboot.
const exitLost = 255

func markLost(c *Container) {
	c.State, c.Pid, c.ExitCode, c.Reason = Exited, 0, exitLost, "Unknown"
	if c.FinishedAt.IsZero() {
		c.FinishedAt = time.Now()
	}
}

// removeStraySnapshots removes container snapshots without a container: left by an agent that ended
// after creating only the snapshot.
func (r *Runtime) removeStraySnapshots(ctx context.Context, present map[string]bool) error {
	var stray []string
	err := r.snapshotter().Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if info.Kind == snapshots.KindActive && info.Labels[labelSnapshotOwner] != "" && !present[info.Name] {
			stray = append(stray, info.Name)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	for _, name := range stray {
		if r.inUse(name) {
			continue
		}
		if err := r.snapshotter().Remove(ctx, name); err != nil && !errdefs.IsNotFound(err) {
			slog.Warn("stray snapshot not removed", "snapshot", name, "err", err)
		}
	}
	return nil
}

func (r *Runtime) snapshotter() snapshots.Snapshotter {
	return r.client.SnapshotService(r.cfg.Snapshotter)
}
