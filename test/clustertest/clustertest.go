// Package clustertest runs the tests of a package on one local cluster, of the programs that `make build` leaves in bin/: each
// test has a namespace of its own there, uses the API and runs skep's command line. It is for tests only.
package clustertest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/skep-io/skep/cmd/skep/cluster"
)

// Patience is for what a healthy cluster does in seconds, on a slow machine.
const Patience = 60 * time.Second

// Cluster is what a package's tests share.
type Cluster struct {
	*cluster.Cluster
	API kubernetes.Interface // as the administrator
	Bin string               // folder of the programs, absolute
}

// Main starts a cluster, whose programs are in the folder bin, hands it to use and runs the package's tests; what it
// returns is the exit code. Name begins the cluster's name; Options' Name, Dir, Bin and Progress are set here.
func Main(m *testing.M, name, bin string, o cluster.Options, use func(*Cluster)) (code int) {
	dir, err := os.MkdirTemp("", "skep-"+name+"-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	o.Name = fmt.Sprintf("%s-%d", name, os.Getpid())
	o.Dir = filepath.Join(dir, o.Name)
	defer func() {
		if code != 0 {
			KeepLogs(name, o.Dir)
		}
		if err := cluster.Down(context.Background(), o.Name, o.Dir, os.Stderr); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	c, err := Start(bin, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	use(c)
	return m.Run()
}

// Start starts a cluster, whose programs are in the folder bin, with the images of the tests. Options' Bin and Progress are set here.
func Start(bin string, o cluster.Options) (*Cluster, error) {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return nil, err
	}
	if o.Bin, err = cluster.BinariesIn(bin); err != nil {
		return nil, err
	}
	o.Progress = os.Stderr
	local, err := cluster.Up(context.Background(), o)
	if err != nil {
		return nil, err
	}
	api, err := local.Client()
	if err != nil {
		return nil, err
	}
	c := &Cluster{Cluster: local, API: api, Bin: bin}
	for _, image := range []string{"echo", "shell"} {
		if out, err := c.Skep(context.Background(), "", "image", "load", filepath.Join(bin, "images", image+".tar")); err != nil {
			return nil, fmt.Errorf("%w: %s", err, out)
		}
	}
	return c, nil
}

// KeepLogs saves the programs' logs of a failed run, whose cluster is removed.
func KeepLogs(name, state string) {
	kept, err := os.MkdirTemp("", "skep-"+name+"-logs-")
	if err != nil {
		return
	}
	logs, _ := filepath.Glob(filepath.Join(state, "*", "agent.log"))
	servers, _ := filepath.Glob(filepath.Join(state, "skepd*.log"))
	for _, path := range append(logs, servers...) {
		data, err := os.ReadFile(path)
		if err == nil {
			_ = os.WriteFile(filepath.Join(kept, strings.ReplaceAll(strings.TrimPrefix(path, state+"/"), "/", "-")), data, 0o644)
		}
	}
	fmt.Fprintln(os.Stderr, "the programs' logs are in", kept)
}

// Skep runs the command line against the cluster.
func (c *Cluster) Skep(ctx context.Context, stdin string, args ...string) (string, error) {
	command := exec.CommandContext(ctx, filepath.Join(c.Bin, "skep"), args...)
	command.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig())
	command.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	command.Stdout, command.Stderr = &out, &out
	err := command.Run()
	if err != nil {
		err = fmt.Errorf("skep %s: %w", strings.Join(args, " "), err)
	}
	return out.String(), err
}

// Eventually asks until an attempt does not fail, and fails the test with its last error if that takes too long. It is for states
// that cannot be watched.
func Eventually(t testing.TB, what string, attempt func() error) {
	t.Helper()
	pace := time.NewTicker(50 * time.Millisecond)
	defer pace.Stop()
	for deadline := time.Now().Add(Patience); ; <-pace.C {
		err := attempt()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s in vain: %v", Patience, what, err)
		}
	}
}
