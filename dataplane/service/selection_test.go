package service

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/skep-io/skep/bpf"
	"github.com/skep-io/skep/bpf/selectiontest"
)

// selector runs the kernel's selection over a Plane's maps.
type selector struct {
	t       testing.TB
	objects selectiontest.SelectionObjects
}

func newSelector(t testing.TB, p *Plane) *selector {
	t.Helper()
	spec, err := selectiontest.LoadSelection()
	if err != nil {
		t.Fatal(err)
	}
	replacements := p.Maps()
	for name, replacement := range replacements {
		if m := spec.Maps[name]; m != nil {
			m.MaxEntries = replacement.MaxEntries()
		} else {
			delete(replacements, name)
		}
	}
	s := &selector{t: t}
	if err := spec.LoadAndAssign(&s.objects, &ebpf.CollectionOptions{MapReplacements: replacements}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.objects.Close() })
	return s
}

// run selects for one client and returns the backend and why.
func (s *selector) run(asked Frontend, client uint64) (Frontend, bpf.SocketCounter) {
	s.t.Helper()
	var request selectiontest.SelectionSelection
	request.Client.Word[0], request.Client.Word[1] = uint32(client), uint32(client>>32)
	out := s.ask(s.objects.SkepTestSelect, asked, request)
	return peerOf(out), bpf.SocketCounter(out.Reason)
}

// flow selects for a packet of a flow.
func (s *selector) flow(asked Frontend, hash uint32) (Frontend, bpf.SocketCounter) {
	s.t.Helper()
	out := s.ask(s.objects.SkepTestSelect, asked, selectiontest.SelectionSelection{Hash: hash})
	return peerOf(out), bpf.SocketCounter(out.Reason)
}

// ask runs one of the test programs.
func (s *selector) ask(program *ebpf.Program, asked Frontend, request selectiontest.SelectionSelection) selectiontest.SelectionSelection {
	s.t.Helper()
	from := toNetwork(asked)
	request.Asked.Addr.Word = from.Addr.Word
	request.Asked.Port, request.Asked.Protocol, request.Asked.Scope = from.Port, from.Protocol, from.Scope
	if err := s.objects.SkepTestSelection.Put(uint32(0), &request); err != nil {
		s.t.Fatal(err)
	}
	if code, _, err := program.Test(make([]byte, 14)); err != nil || code != 0 {
		s.t.Fatalf("test run returned %d, %v", code, err)
	}
	if err := s.objects.SkepTestSelection.Lookup(uint32(0), &request); err != nil {
		s.t.Fatal(err)
	}
	return request
}

func peerOf(selection selectiontest.SelectionSelection) Frontend {
	var peer bpf.SocketEndpoint
	peer.Addr.Word = selection.Peer.Addr.Word
	peer.Port, peer.Protocol, peer.Scope = selection.Peer.Port, selection.Peer.Protocol, selection.Peer.Scope
	return fromNetwork(peer)
}

func TestSelection(t *testing.T) {
	p := newStage(t).open(t)
	s := newSelector(t, p)
	web := frontend("10.96.0.1:4660", TCP) // 0x1234: another port if swapped
	service := serviceOf("default/web:http", TCP, "10.96.0.1:4660", three...)
	service.Backends[1].Node = "node2"
	expect := func(asked Frontend, reason bpf.SocketCounter, backends ...string) {
		t.Helper()
		before := dump(t, p).Counters
		turns := max(1, len(backends))
		for turn := range turns {
			got, why := s.run(asked, 1)
			if why != reason {
				t.Fatalf("%v: %s, want %s", asked, counterLabels[why], counterLabels[reason])
			}
			if len(backends) > 0 && got != frontend(backends[turn], asked.Protocol) {
				t.Fatalf("%v turn %d: backend %v, want %s", asked, turn, got, backends[turn])
			}
		}
		after := dump(t, p).Counters
		for label := range after {
			moved := after[label] - before[label]
			switch {
			case label == counterLabels[reason]:
				if moved != uint64(turns) {
					t.Errorf("%v: counter %s moved by %d, want %d", asked, label, moved, turns)
				}
			case label != "node_down_skipped" && moved != 0:
				t.Errorf("%v: counter %s moved by %d", asked, label, moved)
			}
		}
	}

	expect(web, bpf.SocketCounterREASON_NO_SERVICE)
	p.SetService(service)
	flush(t, p)
	expect(web, bpf.SocketCounterREASON_TRANSLATED, three[0], three[1], three[2], three[0], three[1], three[2])
	expect(frontend("10.96.0.1:4660", UDP), bpf.SocketCounterREASON_NO_SERVICE)
	expect(frontend("10.96.0.1:13330", TCP), bpf.SocketCounterREASON_NO_SERVICE)
	external := web
	external.Scope = ScopeExternal
	expect(external, bpf.SocketCounterREASON_NO_SERVICE)

	p.SetNodeDown("node2", true)
	flush(t, p)
	expect(web, bpf.SocketCounterREASON_TRANSLATED, three[0], three[2], three[0], three[2])
	p.SetNodeDown("node1", true)
	flush(t, p)
	expect(web, bpf.SocketCounterREASON_BACKENDS_DOWN)
	p.SetNodeDown("node1", false)
	p.SetService(serviceOf("default/web:http", TCP, "10.96.0.1:4660"))
	flush(t, p)
	expect(web, bpf.SocketCounterREASON_NO_BACKEND)
}

// A large service with few backends that are up finds one by walking its slots.
func TestSelectionWalksPastManyDownBackends(t *testing.T) {
	p := newStage(t).open(t)
	s := newSelector(t, p)
	service := Service{Name: "default/big:http", Frontends: []Frontend{frontend("10.96.0.1:80", TCP)}}
	addr := frontend("10.244.0.1:80", TCP).Addr
	for i := range 1000 {
		b := Backend{Addr: addr, Port: 80, Node: "dead"}
		if i == 777 {
			b.Node = "alive"
		}
		service.Backends = append(service.Backends, b)
		addr = addr.Next()
	}
	alive := service.Backends[777].Addr
	p.SetService(service)
	p.SetNodeDown("dead", true)
	flush(t, p)
	for range 5 {
		if got, why := s.run(service.Frontends[0], 1); why != bpf.SocketCounterREASON_TRANSLATED || got.Addr != alive {
			t.Fatalf("selected %v: %s, want %v", got, counterLabels[why], alive)
		}
	}
}

// Records that only corrupt maps could have are refused; no program uses another's
// backend.
func TestSelectionTrustsNoStrayRecord(t *testing.T) {
	p := newStage(t).open(t)
	s := newSelector(t, p)
	a, b := frontend("10.96.0.1:80", TCP), frontend("10.96.0.2:80", TCP)
	p.SetService(serviceOf("default/a:http", TCP, "10.96.0.1:80", three[0]))
	p.SetService(serviceOf("default/b:http", TCP, "10.96.0.2:80", three[1]))
	flush(t, p)
	table := &p.maps.frontends
	ours, _, _ := table.find(toNetwork(a))
	_, e, _ := table.find(toNetwork(b))
	expect := func(asked Frontend, want bpf.SocketCounter) {
		t.Helper()
		if got, why := s.run(asked, 1); why != want {
			t.Errorf("%v: %s, want %s", got, counterLabels[why], counterLabels[want])
		}
	}
	*table.entryAt(ours) = e.word(table.check(toNetwork(b)))
	expect(a, bpf.SocketCounterREASON_NO_SERVICE)
	*table.entryAt(ours) = entry{service: testLimits.Services}.word(table.check(toNetwork(a)))
	expect(a, bpf.SocketCounterREASON_BACKEND_MISSING)
	stray := p.maps.readRun(readRun(p.maps.services.at(e.service).Run))[0]
	p.maps.backends.at(stray).Service++
	expect(b, bpf.SocketCounterREASON_BACKEND_MISSING)
}

func TestAffinityIsPerClient(t *testing.T) {
	p := newStage(t).open(t)
	s := newSelector(t, p)
	service := serviceOf("default/web:http", TCP, "10.96.0.1:80", three...)
	service.AffinityTimeout = 1
	p.SetService(service)
	flush(t, p)
	for client := range uint64(3) {
		for range 4 {
			if got, _ := s.run(service.Frontends[0], client+1); got != frontend(three[client], TCP) {
				t.Fatalf("client %d got %v, want %s", client, got, three[client])
			}
		}
	}
	if hits := dump(t, p).Counters["affinity_hit"]; hits != 9 {
		t.Errorf("affinity_hit is %d, want 9", hits)
	}
}

// Every value of enum counter has a label of its own.
func TestCounterLabels(t *testing.T) {
	spec, err := bpf.LoadSocket()
	if err != nil {
		t.Fatal(err)
	}
	var enum *btf.Enum
	if err := spec.Types.TypeByName("counter", &enum); err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	for _, value := range enum.Values {
		if value.Name == "COUNTER_COUNT" {
			if int(value.Value) != len(counterLabels) {
				t.Errorf("C has %d counters, Go %d labels", value.Value, len(counterLabels))
			}
			continue
		}
		label := counterLabels[value.Value]
		if label == "" || seen[label] != "" {
			t.Errorf("%s has label %q, as has %q", value.Name, label, seen[label])
		}
		seen[label] = value.Name
	}
	if len(seen) != len(counterLabels) {
		t.Errorf("%d of %d labels have a C value", len(seen), len(counterLabels))
	}
}

// Constants and globals would become maps that nobody pins.
func TestOnlyNamedMaps(t *testing.T) {
	spec, err := bpf.LoadSocket()
	if err != nil {
		t.Fatal(err)
	}
	for name := range spec.Maps {
		if name[:5] != "skep_" {
			t.Errorf("the object has a map %s: initialise field by field in the C", name)
		}
	}
}
