package service

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"
)

var rewrite = flag.Bool("rewrite", false, "write the dumps of testdata/*.txtar anew")

// TestTables applies desired state and compares what the maps hold. A file has
//
//	-- setup --   events in their order, then Synced (optional)
//	-- events --  events applied in this order and, on fresh maps, the reverse
//	-- fail --    CALL N: the first N writes of that kind fail (optional)
//	-- dump --    what the maps hold then
//
// and the events, one a line:
//
//	service NAME [affinity=10s] [selection=maglev] [since=SECONDS] [snat] [source=PREFIX...] FRONTEND... [-> BACKEND...]
//	delete NAME
//	node NAME down|up
//	addresses ADDRESS...       this node's
//	peer NODE [ADDRESS...]     another node's
//	withdraw ADDRESS
//
// FRONTEND is ADDRESS:PORT/PROTOCOL[/external][/local][/restricted][/given][/here], BACKEND is
// ADDRESS:PORT[@NODE][=terminating|=unready|=distant]. This node is node1.
func TestTables(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no tables: ", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) { runTable(t, file) })
	}
}

func runTable(t *testing.T, file string) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	for _, f := range archive.Files {
		sections[f.Name] = string(f.Data)
	}
	events := lines(sections["events"])
	reversed := slices.Clone(events)
	slices.Reverse(reversed)
	var dumps []string
	for _, order := range [][]string{events, reversed} {
		p, r := newStage(t).recording(t, Limits{})
		for _, event := range lines(sections["setup"]) {
			applyEvent(t, p, event)
		}
		p.Synced()
		flush(t, p)
		r.failing(failures(t, sections["fail"]))
		for _, event := range order {
			applyEvent(t, p, event)
		}
		flush(t, p)
		text := tablesText(dump(t, p))
		for _, problem := range p.Problems() {
			text += "problem " + problem.Error() + "\n"
		}
		dumps = append(dumps, text)
		p.Close()
	}
	if dumps[0] != dumps[1] {
		t.Errorf("the order of events matters:\n%s\nreversed:\n%s", dumps[0], dumps[1])
	}
	if *rewrite {
		for i := range archive.Files {
			if archive.Files[i].Name == "dump" {
				archive.Files[i].Data = []byte(dumps[0])
			}
		}
		if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if dumps[0] != sections["dump"] {
		t.Errorf("maps hold:\n%s\nwant:\n%s", dumps[0], sections["dump"])
	}
}

func lines(text string) []string {
	return slices.DeleteFunc(strings.Split(text, "\n"), func(line string) bool {
		return line == "" || strings.HasPrefix(line, "#")
	})
}

func failures(t *testing.T, text string) func(string) bool {
	left := map[string]int{}
	for _, line := range lines(text) {
		call, count, _ := strings.Cut(line, " ")
		n, err := strconv.Atoi(count)
		if err != nil {
			t.Fatal(err)
		}
		left[call] = n
	}
	return func(call string) bool {
		left[call]--
		return left[call] >= 0
	}
}

func applyEvent(t *testing.T, p *Plane, event string) {
	t.Helper()
	words := strings.Fields(event)
	switch words[0] {
	case "service":
		p.SetService(parseService(t, words[1:]))
	case "delete":
		p.DeleteService(words[1])
	case "node":
		p.SetNodeDown(words[1], words[2] == "down")
	case "addresses", "peer":
		var addrs []netip.Addr
		for _, word := range words[1:] {
			if addr, err := netip.ParseAddr(word); err == nil {
				addrs = append(addrs, addr)
			}
		}
		if words[0] == "peer" {
			p.SetNodeAddresses(words[1], addrs)
		} else {
			p.SetAddresses(addrs)
		}
	case "withdraw":
		p.WithdrawAddress(netip.MustParseAddr(words[1]))
	default:
		t.Fatalf("event %q is not known", event)
	}
}

func parseService(t *testing.T, words []string) Service {
	t.Helper()
	s := Service{Name: words[0]}
	protocols := map[string]Protocol{"tcp": TCP, "udp": UDP, "sctp": SCTP}
	states := map[string]State{"": Active, "terminating": Terminating, "unready": Unready}
	backends := false
	for _, word := range words[1:] {
		if value, ok := strings.CutPrefix(word, "affinity="); ok {
			d, err := time.ParseDuration(value)
			if err != nil {
				t.Fatal(err)
			}
			s.AffinityTimeout = d
			continue
		}
		if value, ok := strings.CutPrefix(word, "selection="); ok {
			s.Selection = map[string]Selection{"least-connections": LeastConnections, "random": Random, "maglev": Maglev}[value]
			continue
		}
		if value, ok := strings.CutPrefix(word, "source="); ok {
			s.SourceRanges = append(s.SourceRanges, netip.MustParsePrefix(value))
			continue
		}
		if value, ok := strings.CutPrefix(word, "since="); ok {
			since, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			s.Since = since
			continue
		}
		if word == "snat" {
			s.SNAT = true
			continue
		}
		if word == "->" {
			backends = true
			continue
		}
		if backends {
			word, state, _ := strings.Cut(word, "=")
			address, node, _ := strings.Cut(word, "@")
			b := backend(address)
			if state == "distant" {
				b.Distant, state = true, ""
			}
			b.Node, b.State = node, states[state]
			s.Backends = append(s.Backends, b)
			continue
		}
		parts := strings.Split(word, "/")
		f := frontend(parts[0], protocols[parts[1]])
		if len(parts) > 2 {
			for _, option := range parts[2:] {
				switch option {
				case "external":
					f.Scope = ScopeExternal
				case "local":
					f.Local = true
				case "here":
					f.Here = true
				case "given":
					f.Given = true
				case "restricted":
					f.Restricted = true
				default:
					t.Fatalf("frontend option %q is not known", option)
				}
			}
		}
		s.Frontends = append(s.Frontends, f)
	}
	return s
}

// tablesText prints a dump without ids and counts, which depend on the order of
// events.
func tablesText(d *Dump) string {
	var out strings.Builder
	for _, s := range d.Services {
		fmt.Fprintf(&out, "service %s\n", s.Name)
		for _, f := range s.Frontends {
			fmt.Fprintf(&out, "  frontend %s/%s %s", f.Address, f.Protocol, f.Scope)
			if f.AffinitySeconds > 0 {
				fmt.Fprintf(&out, " affinity %ds", f.AffinitySeconds)
			}
			if f.Primary {
				out.WriteString(" primary")
			}
			if f.Local {
				out.WriteString(" local")
			}
			if f.Restricted {
				out.WriteString(" restricted")
			}
			out.WriteByte('\n')
		}
		if s.Selection != "round-robin" {
			fmt.Fprintf(&out, "  selection %s\n", s.Selection)
		}
		if s.Forwarding != "dsr" {
			fmt.Fprintf(&out, "  forwarding %s\n", s.Forwarding)
		}
		for _, prefix := range s.Sources {
			fmt.Fprintf(&out, "  source %s\n", prefix)
		}
		for _, slot := range s.Slots {
			fmt.Fprintf(&out, "  slot %s\n", slot)
		}
		for _, slot := range s.LocalSlots {
			fmt.Fprintf(&out, "  local slot %s\n", slot)
		}
	}
	for _, b := range d.Backends {
		fmt.Fprintf(&out, "backend %s %s/%s", b.Service, b.Address, b.Protocol)
		if b.Node != "" {
			fmt.Fprintf(&out, " on %s", b.Node)
		}
		fmt.Fprintf(&out, " %s", b.State)
		if b.Local {
			out.WriteString(" here")
		}
		out.WriteByte('\n')
	}
	for _, n := range d.Nodes {
		state := "up"
		if n.Down {
			state = "down"
		}
		fmt.Fprintf(&out, "node %s %s", n.Name, state)
		for _, addr := range n.Addresses {
			fmt.Fprintf(&out, " %s", addr)
		}
		out.WriteByte('\n')
	}
	for _, a := range d.Addresses {
		fmt.Fprintf(&out, "address %s", a.Address)
		if a.Own {
			out.WriteString(" own")
		}
		if a.Peer {
			out.WriteString(" peer")
		}
		out.WriteByte('\n')
	}
	return out.String()
}
