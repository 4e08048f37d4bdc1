// Bench runs every benchmark of this module, prints the output of each as it runs, and one table at the end.
//
// It owns the order, the time that each package may take, and the table; what is measured, and that both sides of a ratio are
// measured in turns, is up to the packages. Run it as root, after make build:
//
//	go run ./test/bench [PACKAGE ...]
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// limit is how long a package may take.
const limit = 10 * time.Minute

// first are the packages that the table's rows come from; the others follow.
var first = []string{
	"./test/bench/service", "./dataplane/flow", "./test/bench/endpoints", "./test/bench/memory", "./test/bench/path", "./test/bench/pod", "./test/bench/scheduling", "./test/bench/failure",
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, packages []string) error {
	if len(packages) == 0 {
		var err error
		if packages, err = withBenchmarks("."); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp("", "skep-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	results, began := figures{}, time.Now()
	var failed []error
	for i, name := range packages {
		fmt.Printf("[%d/%d, %v] %s\n", i+1, len(packages), time.Since(began).Round(time.Second), name)
		if err := runPackage(ctx, dir, name, results); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", name, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	fmt.Println()
	results.print(os.Stdout)
	fmt.Printf("%d packages in %v\n", len(packages), time.Since(began).Round(time.Second))
	return errors.Join(failed...)
}

// withBenchmarks lists the packages below a folder that have any, those of the table first.
func withBenchmarks(root string) (packages []string, err error) {
	err = filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		content, err := os.ReadFile(path)
		if name := "./" + filepath.Dir(path); strings.Contains(string(content), "\nfunc Benchmark") && !slices.Contains(packages, name) {
			packages = append(packages, name)
		}
		return err
	})
	others := slices.DeleteFunc(packages, func(name string) bool { return slices.Contains(first, name) })
	return slices.Concat(first, others), err
}

// runPackage builds a package's tests and runs its benchmarks, in the package's folder.
func runPackage(ctx context.Context, dir, name string, results figures) error {
	binary := filepath.Join(dir, "bench.test")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-o", binary, name)
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, limit+time.Minute) // the tests end themselves before
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "-test.run=^$", "-test.bench=.", "-test.timeout="+limit.String())
	cmd.Dir = name
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = time.Minute
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGTERM}
	out, in := io.Pipe()
	cmd.Stdout, cmd.Stderr = in, os.Stderr
	read := make(chan struct{})
	go func() {
		defer close(read)
		scan := bufio.NewScanner(out)
		scan.Buffer(nil, 1<<20)
		for scan.Scan() {
			results.read(name, scan.Text())
			fmt.Println(scan.Text())
		}
		io.Copy(io.Discard, out)
	}()
	err := cmd.Run()
	in.Close()
	<-read
	return err
}
