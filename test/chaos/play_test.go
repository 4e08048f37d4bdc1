package chaos

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/cmd/skep/cluster"
	"github.com/skep-io/skep/test/chaos/invariant"
	"github.com/skep-io/skep/test/chaos/schedule"
	"github.com/skep-io/skep/test/chaos/wallclock"
	"github.com/skep-io/skep/test/clustertest"
)

// slowWrites is what a slow disk does in a second. etcd syncs its log for each batch of writes.
const slowWrites = 15

// play plays the faults and returns when all are over.
func (r *run) play(ctx context.Context, faults []schedule.Fault) {
	r.Helper()
	var under sync.WaitGroup
	for _, f := range faults {
		sleep(ctx, time.Until(r.begun.Add(f.At)))
		under.Go(func() { r.playOne(ctx, f) })
	}
	under.Wait()
	if r.notPlayed*5 > len(faults) {
		r.Errorf("%d of %d faults could not be played", r.notPlayed, len(faults))
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (r *run) playOne(ctx context.Context, f schedule.Fault) {
	from := time.Now()
	end, err := r.begin(ctx, f)
	if err != nil {
		r.note("not played: %s %d: %v", f.Kind, f.Target, err)
		r.mu.Lock()
		r.notPlayed++
		r.mu.Unlock()
		return
	}
	r.note("begin %s %d", f.Kind, f.Target)
	if end != nil {
		sleep(ctx, f.Length)
		if err := end(); err != nil {
			r.Errorf("the end of %s %d: %v", f.Kind, f.Target, err)
		}
		r.note("end   %s %d", f.Kind, f.Target)
	}
	switch f.Kind {
	case schedule.HostKill, schedule.HostPause, schedule.HostCut, schedule.HostIngressLoss, schedule.HostEgressLoss, schedule.HostLoss, schedule.AgentKill, schedule.AgentPause:
		r.mu.Lock()
		r.outages = append(r.outages, invariant.Outage{Host: r.hosts[f.Target-1].Name, From: from, To: time.Now()})
		r.mu.Unlock()
	}
}

// begin begins a fault. Its end is nil if it has none.
func (r *run) begin(ctx context.Context, f schedule.Fault) (end func() error, err error) {
	if f.Kind.Server() {
		return r.beginAtServer(ctx, f)
	}
	return r.beginAtHost(ctx, f)
}

func (r *run) beginAtServer(ctx context.Context, f schedule.Fault) (end func() error, err error) {
	s := r.servers[f.Target-1]
	cut := func(way clustertest.Way, peersOnly bool) (func() error, error) {
		c, err := clustertest.CutServer(s, way, peersOnly)
		if err != nil {
			return nil, err
		}
		return c.Heal, nil
	}
	switch f.Kind {
	case schedule.ServerKill:
		return nil, s.Signal(unix.SIGKILL)
	case schedule.ServerDown:
		return func() error { return s.Start(ctx) }, s.Kill(ctx)
	case schedule.ServerPause:
		return pause(s.PID())
	case schedule.ServersPause:
		var ends []func() error
		for _, other := range r.servers {
			if other.Number == f.Target {
				continue
			}
			end, e := pause(other.PID())
			if err = errors.Join(err, e); e == nil {
				ends = append(ends, end)
			}
		}
		end := func() (err error) {
			for _, f := range ends {
				err = errors.Join(err, f())
			}
			return err
		}
		if err != nil {
			return nil, errors.Join(err, end())
		}
		return end, nil
	case schedule.ServerCut:
		return cut(clustertest.Both, false)
	case schedule.ServerMinority:
		return cut(clustertest.Both, true)
	case schedule.ServerIngressLoss:
		return cut(clustertest.In, false)
	case schedule.ServerEgressLoss:
		return cut(clustertest.Out, false)
	case schedule.ServerSlowDisk:
		return r.disks[f.Target-1].Slow(fmt.Sprintf("%s/slow%d", s.Group(), f.Target), s.PIDs(), slowWrites)
	case schedule.ServerFullDisk:
		return r.disks[f.Target-1].Fill()
	case schedule.ServerClock:
		return wallclock.Shift(s.PID(), f.Jump)
	}
	return nil, fmt.Errorf("no such fault")
}

func (r *run) beginAtHost(ctx context.Context, f schedule.Fault) (end func() error, err error) {
	host := r.hosts[f.Target-1]
	lose := func(way clustertest.Way, part float64) (func() error, error) {
		c, err := clustertest.CutHost(host, way, part)
		if err != nil {
			return nil, err
		}
		return c.Heal, nil
	}
	agent := func(do func(pid int) (func() error, error)) (func() error, error) {
		pid, err := clustertest.Agent(host)
		if err != nil {
			return nil, err
		}
		return do(pid)
	}
	switch f.Kind {
	case schedule.HostKill:
		return func() error { return host.Start(ctx) }, host.Kill(ctx)
	case schedule.HostPause:
		return func() error { return host.Resume(ctx) }, host.Pause(ctx)
	case schedule.HostCut:
		return host.Heal, host.Cut()
	case schedule.HostIngressLoss:
		return lose(clustertest.In, 1)
	case schedule.HostEgressLoss:
		return lose(clustertest.Out, 1)
	case schedule.HostLoss:
		return lose(clustertest.Both, 0.3)
	case schedule.AgentKill:
		return agent(func(pid int) (func() error, error) { return nil, unix.Kill(pid, unix.SIGKILL) })
	case schedule.AgentPause:
		return agent(pause)
	case schedule.AgentClock:
		return agent(func(pid int) (func() error, error) { return wallclock.Shift(pid, f.Jump) })
	case schedule.ContainerdKill:
		return nil, r.killOn(host, "containerd", nil)
	case schedule.ShimKill:
		return nil, r.killOn(host, "containerd-shim-runc-v2", nil)
	case schedule.DNSKill:
		return nil, r.killAnywhere("skep-dns")
	case schedule.PodKill:
		// The load's pods run the program echo.
		return nil, r.killOn(host, "echo", func(pids []int) []int { return []int{pids[int(f.At/time.Millisecond)%len(pids)]} })
	}
	return nil, fmt.Errorf("no such fault")
}

// pause stops a process until the end, unless that has ended meanwhile.
func pause(pid int) (end func() error, err error) {
	if pid == 0 {
		return nil, errors.New("it does not run")
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGSTOP, nil, 0); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return func() error {
		defer unix.Close(fd)
		if err := unix.PidfdSendSignal(fd, unix.SIGCONT, nil, 0); !errors.Is(err, unix.ESRCH) {
			return err
		}
		return nil
	}, nil
}

// killOn kills processes of a host, or those of them that are chosen.
func (r *run) killOn(host *cluster.Node, program string, choose func([]int) []int) error {
	pids, err := clustertest.Processes(host, program, nil)
	if err != nil || len(pids) == 0 {
		return fmt.Errorf("no %s on %s (%v)", program, host.Name, err)
	}
	slices.Sort(pids)
	if choose != nil {
		pids = choose(pids)
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

func (r *run) killAnywhere(program string) error {
	killed := false
	for _, host := range r.hosts {
		killed = r.killOn(host, program, nil) == nil || killed
	}
	if !killed {
		return fmt.Errorf("no %s on any host", program)
	}
	return nil
}
