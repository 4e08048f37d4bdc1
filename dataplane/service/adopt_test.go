package service

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/skep-io/skep/bpf"
	"github.com/skep-io/skep/dataplane/sandbox"
)

func init() { children["hold"] = hold }

// hold owns a Plane with one service until it is killed.
func hold() error {
	p, err := Open(Options{PinDir: os.Getenv(envPins), CgroupPath: os.Getenv(envCgroup), Node: "node1", Limits: testLimits})
	if err != nil {
		return err
	}
	p.SetService(serviceOf("default/echo:http", TCP, "10.96.0.1:80", three...))
	p.SetService(serviceOf("default/gone:http", TCP, "10.96.0.2:80", three[0]))
	p.Synced()
	if err := p.Flush(deadlined()); err != nil {
		return err
	}
	fmt.Println("holding")
	select {}
}

// recording opens a Plane whose writes can be counted.
func (s *stage) recording(tb testing.TB, limits Limits) (*Plane, *recorder) {
	tb.Helper()
	if limits == (Limits{}) {
		limits = testLimits
	}
	r := &recorder{}
	p, err := open(Options{PinDir: s.pins, CgroupPath: s.cgroup, Limits: limits, Node: "node1"}, func(m *kernelMaps) writer {
		r.writer = m
		return r
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { p.Close() })
	return p, r
}

func TestServicesOutliveAKilledProcess(t *testing.T) {
	s := inside(t)
	if s == nil {
		return
	}
	for _, address := range three {
		serve(t, TCP, address)
	}
	holder := sandbox.AsChild(s.command(t), "hold")
	holder.SysProcAttr.Cloneflags = 0 // stay in this network namespace
	holder.Stderr = os.Stderr
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := sandbox.Start(holder); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "holding\n" {
		t.Fatal("holder did not start: ", line, err)
	}
	inTurn := func(first int) {
		t.Helper()
		for i := range 3 {
			if from, err := ask("tcp4", "10.96.0.1:80"); err != nil || from != three[(first+i)%3] {
				t.Fatalf("turn %d answered by %s, %v", first+i, from, err)
			}
		}
	}
	inTurn(0)
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	holder.Wait()
	inTurn(3)

	p, r := s.recording(t, Limits{})
	flush(t, p)
	inTurn(6)
	// The same service is not touched, whoever set it.
	p.SetService(serviceOf("default/echo:http", TCP, "10.96.0.1:80", three...))
	flush(t, p)
	if writes := r.take(); len(writes) != 0 {
		t.Errorf("an unchanged service was written: %v", writes)
	}
	if d := dump(t, p); len(d.Services) != 2 {
		t.Errorf("%d services before Synced, want both: %+v", len(d.Services), d.Services)
	}
	p.Synced()
	flush(t, p)
	want := []string{"DeleteFrontend", "DeleteName"}
	for _, write := range r.take() {
		if write != "PutBackendFlags" && write != "PutReverse" && !slices.Contains(want, write) {
			t.Errorf("removing a leftover did %s", write)
		}
	}
	d := dump(t, p)
	if len(d.Services) != 1 || len(d.Backends) != 3 || d.Services[0].Connections != 9 {
		t.Errorf("after Synced: %+v %+v", d.Services, d.Backends)
	}
	inTurn(9)
}

// A process that is killed between any two writes leaves maps that the next one
// finishes, and that programs can use meanwhile.
func TestCrashAtEveryWrite(t *testing.T) {
	before := []Service{
		serviceOf("default/a:http", TCP, "10.96.0.1:80", three[0], three[1]),
		serviceOf("default/b:http", TCP, "10.96.0.2:80", three[1]),
		serviceOf("default/m:http", TCP, "10.96.0.5:80", three[0], "127.0.1.9:8080", three[2]),
	}
	before[0].Frontends = append(before[0].Frontends, frontend("0.0.0.0:30080", TCP))
	before[2].SourceRanges = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	after := []Service{
		serviceOf("default/a:http", TCP, "10.96.0.1:80", three[1], three[2]),
		serviceOf("default/c:http", TCP, "10.96.0.2:80", three[0]),
		serviceOf("default/m:http", TCP, "10.96.0.5:80", three[0], "127.0.1.9:8080", three[2]),
	}
	after[0].Frontends = append(after[0].Frontends, frontend("10.96.0.3:80", TCP))
	after[2].Selection, after[2].SNAT, after[2].Backends[1].State = Maglev, true, Unready
	after[2].SourceRanges = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	own := []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	var want string
	for step := 0; ; step++ {
		s := newStage(t)
		p, r := s.recording(t, Limits{})
		apply := func(p *Plane, services []Service) {
			for _, service := range services {
				p.SetService(service)
			}
			p.SetAddresses(own)
			p.SetNodeAddresses("node2", own)
		}
		apply(p, before)
		p.Synced()
		flush(t, p)
		left := step
		crashed := make(chan struct{})
		r.failing(func(string) bool {
			left--
			if left == -1 {
				close(crashed)
			}
			return left < 0
		})
		settled := make(chan error, 1)
		apply(p, after)
		p.DeleteService("default/b:http") // c waits for its address
		ctx := deadlined()
		go func() { settled <- p.Flush(ctx) }()
		complete := false
		select {
		case err := <-settled:
			if err != nil {
				t.Fatal(err)
			}
			complete = true
		case <-crashed:
		}
		if !complete {
			frontendsAnswer(t, p)
		}
		p.Close()

		next, repairs := s.recording(t, Limits{})
		frontendsAnswer(t, next)
		apply(next, after)
		next.Synced()
		flush(t, next)
		got := tablesText(dump(t, next))
		if writes := repairs.take(); complete && len(writes) > 0 {
			t.Errorf("nothing was left to do, and the next process wrote %v", writes)
		}
		next.Close()
		if want == "" {
			fresh := newStage(t).open(t)
			apply(fresh, after)
			flush(t, fresh)
			want = tablesText(dump(t, fresh))
		}
		if got != want {
			t.Fatalf("after a crash before write %d:\n%swant:\n%s", step, got, want)
		}
		if complete {
			if step < 20 {
				t.Fatalf("only %d writes were interrupted", step)
			}
			t.Logf("%d writes interrupted", step)
			return
		}
	}
}

// frontendsAnswer fails if a frontend that stayed leads nowhere.
func frontendsAnswer(t *testing.T, p *Plane) {
	t.Helper()
	s := newSelector(t, p)
	defer s.objects.Close()
	for _, address := range []string{"10.96.0.1:80", "10.96.0.2:80", "10.96.0.5:80"} {
		if got, why := s.run(frontend(address, TCP), 1); why != bpf.SocketCounterREASON_TRANSLATED {
			t.Errorf("%s leads to %v: %s", address, got, counterLabels[why])
		}
	}
}

func TestFailedWritesAreRetried(t *testing.T) {
	p, r := newStage(t).recording(t, Limits{})
	for _, call := range []string{"PutFrontend", "PutRun", "PutSlots", "PutPolicy", "PutBackend", "PutBackendFlags", "PutReverse", "PutName", "PutNode", "PutPrimary", "PutSource", "ResetService"} {
		times := 2
		r.failing(func(c string) bool {
			if c != call || times == 0 {
				return false
			}
			times--
			return true
		})
		s := serviceOf("default/"+strings.ToLower(call)+":http", TCP, "10.96.0.1:80", three...)
		s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		s.Selection = Random
		s.Backends[1].State = Unready // leaves a gap: the run needs slots
		for i := range s.Backends {
			s.Backends[i].Node = call
		}
		p.SetService(s)
		flush(t, p)
		if times != 0 {
			t.Errorf("%s did not fail twice", call)
		}
		if d := dump(t, p); len(d.Services) != 1 || len(d.Services[0].Slots) != 2 || len(d.Backends) != 3 {
			t.Errorf("after %s failed: %+v %+v", call, d.Services, d.Backends)
		}
		p.DeleteService(s.Name)
		flush(t, p)
		if d := dump(t, p); len(d.Services) != 0 || len(d.Backends) != 0 || len(d.Nodes) != 0 {
			t.Errorf("after %s failed, left behind: %+v", call, d)
		}
	}
}

// Flush does not claim what the maps do not hold, and says why.
func TestFlushReportsTheFailure(t *testing.T) {
	p, r := newStage(t).recording(t, Limits{})
	r.failing(func(call string) bool { return call == "PutRun" })
	p.SetService(serviceOf("default/a:http", TCP, "10.96.0.1:80", three...))
	failed := make(chan error, 1)
	ctx, cancel := cancellable()
	go func() { failed <- p.Flush(ctx) }()
	p.awaitError()
	cancel()
	if err := <-failed; err == nil || !strings.Contains(err.Error(), errInjected.Error()) {
		t.Errorf("Flush: %v, want the injected error", err)
	}
	r.failing(nil)
	flush(t, p)
}

func TestFullMapsAreNamed(t *testing.T) {
	p, _ := newStage(t).recording(t, Limits{Backends: 2, Slots: 8, Frontends: 8, Services: 8, Nodes: 8})
	p.SetService(serviceOf("default/a:http", TCP, "10.96.0.1:80", three...))
	if err := p.awaitError(); !strings.Contains(err.Error(), "backends are in use") {
		t.Errorf("error %v", err)
	}
	p.SetService(serviceOf("default/a:http", TCP, "10.96.0.1:80", three[:2]...))
	flush(t, p)
	if d := dump(t, p); len(d.Services[0].Slots) != 2 {
		t.Errorf("slots %v", d.Services[0].Slots)
	}
}
