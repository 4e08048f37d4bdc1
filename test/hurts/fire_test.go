package hurts

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/skep-io/skep/bpf"
	"github.com/skep-io/skep/dataplane/sandbox"
	"github.com/skep-io/skep/dataplane/service"
	"github.com/skep-io/skep/test/hurts/lab"
)

// rotating is one of eight backends, all of which serve.
func rotating(i int) string {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 2, byte(1 + i%8)}), 8080).String()
}

func serveRotating(t *testing.T, from ...*lab.Namespace) {
	for _, n := range from {
		for i := range 8 {
			n.Serve(t, service.TCP, rotating(i))
		}
	}
}

// window is the service's state after a change: two backends of eight, one of which is new and one old.
func window(change int) service.Service {
	return lab.Service("default/web:http", service.TCP, webService, rotating(change), rotating(change+1))
}

// The endpoints of a service change 1,000 times while clients on the host and in a pod connect: no connect fails, and none
// reaches a backend after its removal was acknowledged.
func TestEndpointsChangeUnderFire(t *testing.T) {
	p := lab.Open(t, lab.Pins(t))
	host, pod := lab.Host(t), lab.NewNamespace(t)
	serveRotating(t, host, pod)
	set(t, p, window(0))
	var acknowledged, announced atomic.Int64
	ask := func(ask func() (string, error)) func() error {
		return func() error {
			first := int(acknowledged.Load())
			name, err := ask()
			last := int(announced.Load())
			if err != nil {
				return fmt.Errorf("during change %d: %w", first, err)
			}
			for change := first; change <= last; change++ {
				if name == rotating(change) || name == rotating(change+1) {
					return nil
				}
			}
			return fmt.Errorf("changes up to %d are acknowledged, up to %d announced: reached %s", first, last, name)
		}
	}
	onHost := clients(t, 2, ask(func() (string, error) { return lab.Ask("tcp4", webService) }))
	inPod := clients(t, 1, ask(func() (string, error) { return pod.Ask("tcp4", webService) }))
	const changes = 1000
	for change := 1; change <= changes; change++ {
		announced.Store(int64(change))
		set(t, p, window(change))
		acknowledged.Store(int64(change))
		if change%2 == 0 { // the clients keep up; every other change overtakes them
			onHost.settle()
		}
		if change%20 == 0 {
			inPod.settle()
		}
	}
	h, i := onHost.stop(), inPod.stop()
	if h+i < changes/10 {
		t.Errorf("only %d connections ran against %d changes", h+i, changes)
	}
	t.Logf("%d connections from the host and %d from the pod during %d changes", h, i, changes)
}

// Programs are replaced in their pinned links, maps by maps of another layout, and the agent is away in between: all that with
// connections being made without pause, of which none is lost. cilium 30609.
func TestAgentStopAndUpgrade(t *testing.T) {
	pins := lab.Pins(t)
	p := lab.Open(t, pins)
	serveRotating(t, lab.Host(t))
	set(t, p, window(0))
	c := clients(t, 3, func() error { _, err := lab.Ask("tcp4", webService); return err })
	started := c.done.Load()
	for round := range 20 {
		if err := replacePrograms(pins, p.Maps()); err != nil {
			t.Fatal(err)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		c.settle() // no agent runs
		limits := service.Limits{}
		if round%4 == 3 { // another layout: new maps, filled before programs read them
			limits.Services = uint32(1024 + round)
		}
		var err error
		p, err = service.Open(service.Options{PinDir: pins, CgroupPath: sandbox.Cgroup(), Limits: limits})
		if err != nil {
			t.Fatal(err)
		}
		c.settle() // it runs, and no service has been set
		p.SetService(window(round))
		p.Synced()
		lab.Flush(t, p)
		c.settle()
	}
	made := c.stop() - started
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d connections during 20 upgrades", made)
}

// replacePrograms makes every pinned link run a program of another tag that does the same, as another build's would.
func replacePrograms(pins string, maps map[string]*ebpf.Map) error {
	spec, err := bpf.LoadSocket()
	if err != nil {
		return err
	}
	for _, p := range spec.Programs {
		p.Instructions = slices.Insert(p.Instructions, 1, asm.Mov.Imm(asm.R0, 7))
	}
	for name, m := range maps {
		if spec.Maps[name] != nil {
			spec.Maps[name].MaxEntries = m.MaxEntries()
		} else {
			delete(maps, name)
		}
	}
	loaded, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: maps})
	if err != nil {
		return fmt.Errorf("load the other build's programs: %w", err)
	}
	defer loaded.Close()
	replaced := 0
	for name, program := range loaded.Programs {
		pinned, err := link.LoadPinnedLink(filepath.Join(pins, "links", name), nil)
		if errors.Is(err, os.ErrNotExist) {
			continue // attached only where it is needed
		}
		if err == nil {
			err = errors.Join(pinned.Update(program), pinned.Close())
		}
		if err != nil {
			return fmt.Errorf("replace %s: %w", name, err)
		}
		replaced++
	}
	if replaced < 8 {
		return fmt.Errorf("only %d of %d programs are attached through pinned links", replaced, len(loaded.Programs))
	}
	return nil
}

const agentProcess, envPins = "agent", "SKEP_HURTS_PINS"

// runAgent is a process that changes services without pause until it is killed.
func runAgent() error {
	p, err := service.Open(service.Options{PinDir: os.Getenv(envPins), CgroupPath: sandbox.Cgroup()})
	if err != nil {
		return err
	}
	for change := rand.IntN(8); ; change++ {
		p.SetService(window(change))
		p.SetService(lab.Service("default/other:http", service.TCP, "10.96.0.2:80", rotating(change/2)))
		if change%3 == 0 { // is added and removed
			p.SetService(lab.Service("default/some:http", service.TCP, "10.96.0.3:80", rotating(change)))
		} else {
			p.DeleteService("default/some:http")
		}
		if change%2 == 0 {
			p.Synced()
		}
		if err := p.Flush(context.Background()); err != nil {
			return err
		}
		fmt.Println(change)
	}
}

// An agent is killed 60 times at a random moment. Clients connect without pause and none fails, and the next agent repairs what
// the last one left.
func TestAgentKilledAtRandomMoments(t *testing.T) {
	pins := lab.Pins(t)
	serveRotating(t, lab.Host(t))
	p := lab.Open(t, pins)
	set(t, p, window(0), lab.Service("default/other:http", service.TCP, "10.96.0.2:80", rotating(0)))
	p.Close()
	c := clients(t, 2, func() error {
		for _, address := range []string{webService, "10.96.0.2:80"} {
			if _, err := lab.Ask("tcp4", address); err != nil {
				return fmt.Errorf("%s: %w", address, err)
			}
		}
		return nil
	})
	const kills = 60
	early := 0
	for range kills {
		agent := lab.StartChild(t, agentProcess, envPins+"="+pins)
		if rand.IntN(3) > 0 { // at work; else while it starts
			if _, err := bufio.NewReader(agent.Stdout).ReadString('\n'); err != nil {
				t.Fatal("the agent ended by itself: ", err)
			}
		} else {
			early++
		}
		<-time.After(time.Duration(rand.IntN(40_000)) * time.Microsecond) // any moment will do
		if err := agent.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	c.settle()
	made := c.stop()
	p = lab.Open(t, pins)
	set(t, p, window(5))
	p.Synced()
	lab.Flush(t, p)
	d, err := p.Dump()
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Services) != 1 || len(d.Backends) != 2 {
		t.Errorf("the next agent left %d services and %d backends, want 1 and 2", len(d.Services), len(d.Backends))
	}
	if _, err := lab.Ask("tcp4", "10.96.0.2:80"); err == nil {
		t.Error("a service that nobody wants is still there")
	}
	t.Logf("%d rounds of connections during %d kills, %d of them of an agent that was starting", made, kills, early)
}
