package service

import (
	"context"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// retired collects ids and cells that programs may still be reading: nothing
// refers to them any more, and they are free once every running program has ended.
type retired struct {
	backends []uint32
	services []uint32
	nodes    []uint32
	runs     []run
	cells    []uint32 // of skep_frontends
}

func (r *retired) empty() bool {
	return len(r.backends)+len(r.services)+len(r.nodes)+len(r.runs)+len(r.cells) == 0
}

// timedGrace is far longer than a socket program can run or be preempted for.
const timedGrace = 2 * time.Second

// membarrierGlobal is MEMBARRIER_CMD_GLOBAL of linux/membarrier.h.
const membarrierGlobal = 1

// waitGrace returns when every program that was running has ended. Programs
// run inside an RCU read section, and this membarrier command is
// synchronize_rcu (kernel/sched/membarrier.c). It does nothing on one CPU and
// is refused with nohz_full: there, waitGrace waits for timedGrace.
func waitGrace(ctx context.Context) {
	if runtime.NumCPU() > 1 {
		_, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, membarrierGlobal, 0, 0)
		if errno == 0 {
			return
		}
	}
	timer := time.NewTimer(timedGrace)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// graceLoop passes batches on after a grace period each.
func graceLoop(ctx context.Context, in <-chan *retired, out chan<- *retired) {
	for {
		select {
		case <-ctx.Done():
			return
		case batch := <-in:
			waitGrace(ctx)
			select {
			case <-ctx.Done():
				return
			case out <- batch:
			}
		}
	}
}
