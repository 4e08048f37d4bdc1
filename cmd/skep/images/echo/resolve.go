package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// resolutions counts lookups.
type resolutions struct {
	mu               sync.Mutex
	resolved, late   int
	lastUnsuccessful error
}

// runResolve begins a lookup at every interval, whether or not the earlier ones have ended, and prints every second how many have
// been answered and how many have not been within the bound.
func runResolve(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("resolve", flag.ContinueOnError)
	interval := flags.Duration("interval", 50*time.Millisecond, "time between the beginnings of two lookups")
	bound := flags.Duration("bound", 3*time.Second, "patience for one")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return errors.New("want a name: echo resolve [flags] NAME")
	}
	var r resolutions
	var running sync.WaitGroup
	begin, report := time.NewTicker(*interval), time.NewTicker(time.Second)
	defer begin.Stop()
	defer report.Stop()
	for {
		select {
		case <-begin.C:
			running.Go(func() { r.one(ctx, flags.Arg(0), *bound) })
		case <-report.C:
			r.print(out)
		case <-ctx.Done():
			running.Wait()
			r.print(out)
			return nil
		}
	}
}

func (r *resolutions) one(ctx context.Context, name string, bound time.Duration) {
	try, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	_, err := net.DefaultResolver.LookupHost(try, name)
	if ctx.Err() != nil {
		return // it was interrupted
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.late, r.lastUnsuccessful = r.late+1, err
		return
	}
	r.resolved++
}

func (r *resolutions) print(out io.Writer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(out, "resolved %d not %d", r.resolved, r.late)
	if r.lastUnsuccessful != nil {
		fmt.Fprintf(out, " (%v)", r.lastUnsuccessful)
	}
	fmt.Fprintln(out)
}
