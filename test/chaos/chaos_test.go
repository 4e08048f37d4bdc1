package chaos

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/skep-io/skep/cmd/skep/cluster"
	"github.com/skep-io/skep/test/chaos/disk"
	"github.com/skep-io/skep/test/chaos/invariant"
	"github.com/skep-io/skep/test/chaos/schedule"
	"github.com/skep-io/skep/test/clustertest"
)

var (
	seed   = flag.Uint64("seed", 1, "what the schedule is drawn from")
	length = flag.Duration("length", 110*time.Second, "how long faults are played; start and end come to that")
)

var size = schedule.Size{Servers: 3, Hosts: 5}

const (
	namespace = "chaos"
	// diskSize holds a server's log, twice 64 MiB in advance, and a small database.
	diskSize = 448 << 20
	// recovery is how long everything may take after the last fault, on a slow machine.
	recovery = 3 * time.Minute
)

func TestMain(m *testing.M) {
	if service := os.Getenv(clientOf); service != "" {
		connect(service)
		return
	}
	if question := os.Getenv(lookUp); question != "" {
		resolve(question)
		return
	}
	os.Exit(m.Run())
}

// run is one run of a schedule.
type run struct {
	*testing.T
	c       *clustertest.Cluster
	servers []*cluster.Server
	apis    []kubernetes.Interface // of each server
	disks   []*disk.Disk           // of each server
	hosts   []*cluster.Node

	begun     time.Time // of the schedule
	registers invariant.Registers
	pods      invariant.Pods
	watches   []*invariant.Events

	mu           sync.Mutex
	timeline     []string
	outages      []invariant.Outage
	attempts     []invariant.Attempt
	failed       int      // connections
	acknowledged []uint64 // revisions of writes to registers
	notPlayed    int
}

// TestChaos plays the schedule of a seed.
func TestChaos(t *testing.T) {
	faults := schedule.Draw(*seed, *length, size)
	r := &run{T: t}
	r.note("seed %d, %s: %d faults; again with\n\tgo test -count=1 -timeout 0 ./test/chaos -seed %d -length %s", *seed, *length, len(faults), *seed, *length)
	for _, f := range faults {
		r.note("planned %s", f)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d failed. What happened, in seconds after the first fault's clock began:\n%s\nAgain with: go test -count=1 -timeout 0 ./test/chaos -seed %d -length %s",
				*seed, strings.Join(r.timeline, "\n"), *seed, *length)
		}
	})
	ours := r.up()
	func() {
		ctx, stop := context.WithCancel(t.Context())
		var load sync.WaitGroup
		defer load.Wait()
		defer stop()
		disturbed, calm := context.WithCancel(ctx)
		defer calm()
		r.startLoad(ctx, disturbed, &load)
		r.begun = time.Now()
		r.play(ctx, faults)
		calm()
		r.converges(ctx)
		r.finishWatches(ctx)
	}()
	r.judge()
	r.leavesNothingOnHosts()
	ours.note(r.hosts)
	r.down()
	ours.gone(r)
	r.cleared(r.c.Name)
}

// up starts the cluster, and returns what of it the kernel has to forget.
func (r *run) up() *kernelThings {
	r.Helper()
	dir := r.TempDir()
	o := cluster.Options{
		Name: fmt.Sprintf("chaos-%d", os.Getpid()), Servers: size.Servers, Nodes: size.Hosts, Zones: size.Hosts,
	}
	o.Dir = filepath.Join(dir, o.Name)
	r.c = &clustertest.Cluster{Cluster: &cluster.Cluster{Name: o.Name, Dir: o.Dir}}
	r.Cleanup(func() {
		if r.Failed() {
			clustertest.KeepLogs("chaos", o.Dir)
		}
		r.down()
	})
	for number := 1; number <= size.Servers; number++ {
		d, err := disk.Mount(r.c.ServerDir(number), diskSize)
		if err != nil {
			r.Fatal(err)
		}
		r.disks = append(r.disks, d)
		r.Cleanup(func() { _ = d.Unmount() }) // if the cluster was never made
	}
	c, err := clustertest.Start("../../bin", o)
	if err != nil {
		r.Fatal(err)
	}
	r.c = c
	for number := 1; number <= size.Servers; number++ {
		server, err := c.Server(number)
		if err != nil {
			r.Fatal(err)
		}
		config, err := c.RESTConfig()
		if err != nil {
			r.Fatal(err)
		}
		config.Host = server.URL
		api, err := kubernetes.NewForConfig(config)
		if err != nil {
			r.Fatal(err)
		}
		r.servers, r.apis = append(r.servers, server), append(r.apis, api)
	}
	if r.hosts, err = c.Nodes(); err != nil {
		r.Fatal(err)
	}
	ours := &kernelThings{}
	ours.note(r.hosts)
	return ours
}

// down removes the cluster; once more is no error.
func (r *run) down() {
	r.Helper()
	if err := cluster.Down(context.Background(), r.c.Name, r.c.Dir, r.Output()); err != nil {
		r.Error(err)
	}
}

// note adds a line to the timeline.
func (r *run) note(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	if !r.begun.IsZero() {
		line = fmt.Sprintf("%7.2fs  %s", time.Since(r.begun).Seconds(), line)
	}
	r.mu.Lock()
	r.timeline = append(r.timeline, line)
	r.mu.Unlock()
	fmt.Fprintln(os.Stderr, line) // as it happens: a run takes up to an hour
}

// violated fails the test with what was violated.
func (r *run) violated(violations []error) {
	r.Helper()
	for _, err := range violations {
		r.note("VIOLATED: %v", err)
		r.Errorf("violated: %v", err)
	}
}

// judge asks the checkers about what was recorded.
func (r *run) judge() {
	r.Helper()
	r.violated(r.registers.Linearizable(5 * time.Minute))
	r.violated(r.pods.Violations())
	r.mu.Lock()
	attempts, outages, failed := r.attempts, r.outages, r.failed
	r.mu.Unlock()
	r.violated(r.pods.Drained(attempts, outages))
	for _, w := range r.watches {
		r.violated(w.Complete(r.acknowledged))
	}
	answered, unanswered := r.registers.Counts()
	r.note("%d requests for registers were answered, %d were not; %d connections were made, %d failed", answered, unanswered, len(attempts), failed)
	// A run that saw nothing has shown nothing.
	if answered < 200 || len(attempts) < 200 {
		r.Errorf("the load was too small to show anything: %d answers and %d connections", answered, len(attempts))
	}
}
