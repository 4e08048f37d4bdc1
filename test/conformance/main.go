// Command conformance runs Kubernetes' own conformance tests on a local cluster of three hosts:
//
//	make conformance
//
// It builds the end-to-end suite and its image agnhost from the k8s.io/kubernetes module, unchanged, puts stand-ins for
// the suite's other images beside it, runs the tests of the areas that scope.txt names, and prints a table by area. It owns
// the cluster "conformance" and removes it. It never changes or skips a test: what is not run is an area of
// scope.txt, with the reason.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/cmd/skep/cluster"
)

// options are what the command line says.
type options struct {
	bin        string // folder of Skep's programs
	work       string // folder of what is built and reported
	name       string // of the cluster
	focus      string // only tests that match, for work on one of them
	procs      int
	kubeconfig string // of a running cluster, which is used and left alone
	keep       bool
	timeout    time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "../../bin", "folder of skep, skepd, skep-agent and skep-dns")
	flag.StringVar(&o.work, "work", "../../bin/conformance", "folder for the suite, its images and its report")
	flag.StringVar(&o.name, "name", "conformance", "name of the cluster")
	flag.StringVar(&o.focus, "focus", "", "run only those tests of the areas whose name matches this regular expression")
	flag.IntVar(&o.procs, "procs", 4, "tests to run side by side")
	flag.StringVar(&o.kubeconfig, "kubeconfig", "", "use this cluster, which has the images already, instead of starting one")
	flag.BoolVar(&o.keep, "keep", false, "leave the cluster running, for work on a failure")
	flag.DurationVar(&o.timeout, "timeout", time.Hour, "bound on all tests together")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	failed, err := run(ctx, &o, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(2)
	}
	if failed > 0 {
		os.Exit(1)
	}
}

// run returns how many tests failed.
func run(ctx context.Context, o *options, out io.Writer) (failed int, err error) {
	scope, err := readScope()
	if err != nil {
		return 0, err
	}
	tests, err := conformanceTests()
	if err != nil {
		return 0, err
	}
	if err := scope.covers(tests); err != nil {
		return 0, err
	}
	begin := time.Now()
	suite, err := build(ctx, o.work, out)
	if err != nil {
		return 0, err
	}
	if o.kubeconfig == "" {
		down, err := up(ctx, o, suite, out)
		if !o.keep {
			defer func() { err = errors.Join(err, down()) }()
		}
		if err != nil {
			return 0, err
		}
	}
	fmt.Fprintf(out, "conformance: ready to test after %s\n", time.Since(begin).Round(time.Second))
	begin = time.Now()
	results, err := suite.test(ctx, o, scope, out)
	if err != nil {
		return 0, err
	}
	failed = printTable(out, scope, tests, results, time.Since(begin))
	return failed, nil
}

// up starts the cluster and gives every host the suite's images. What it returns removes the cluster, also after an error.
func up(ctx context.Context, o *options, suite *suite, out io.Writer) (down func() error, err error) {
	dir := filepath.Join(o.work, "cluster")
	down = func() error { return cluster.Down(context.WithoutCancel(ctx), o.name, dir, out) }
	bin, err := cluster.BinariesIn(o.bin)
	if err != nil {
		return down, err
	}
	c, err := cluster.Up(ctx, cluster.Options{Name: o.name, Nodes: 3, Dir: dir, Bin: bin, Progress: out})
	if err != nil {
		return down, err
	}
	o.kubeconfig = c.Kubeconfig()
	client, err := c.Client()
	if err != nil {
		return down, err
	}
	archives, err := suite.images()
	if err != nil {
		return down, err
	}
	for _, archive := range archives {
		open := func() (io.ReadCloser, error) { return os.Open(archive) }
		if err := cluster.LoadImage(ctx, client, []string{"node1", "node2", "node3"}, open, nil); err != nil {
			return down, fmt.Errorf("load %s: %w", archive, err)
		}
	}
	fmt.Fprintf(out, "conformance: %d images on every host\n", len(archives))
	return down, nil
}
