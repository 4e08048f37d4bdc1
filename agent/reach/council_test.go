package reach

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/dataplane/flow"
	"github.com/skep-io/skep/witness"
)

// parliament is the councils of a cluster's nodes, with links between them that may lose everything, in virtual time.
type parliament struct {
	tb       testing.TB
	now      time.Time
	nodes    []witness.Node
	councils map[string]*council
	out      map[string]map[string]bool // by node: whom it has out of its maps
	reports  map[string]int
	cut      map[string]bool
	queue    []letter
}

type letter struct {
	from, to string
	data     []byte
}

var testKey = flow.ProbeKey([]byte("0123456789abcdef"))

func newParliament(tb testing.TB, size int) *parliament {
	p := &parliament{tb: tb, now: time.Unix(1_800_000_000, 0), councils: map[string]*council{}, out: map[string]map[string]bool{}, reports: map[string]int{}, cut: map[string]bool{}}
	for i := range size {
		p.join(fmt.Sprint("node", i))
	}
	p.publish()
	return p
}

func (p *parliament) join(name string) {
	author, err := openAuthor(name, p.tb.TempDir(), p.now)
	if err != nil {
		p.tb.Fatal(err)
	}
	obj := &corev1.Node{}
	obj.Name, obj.Annotations = name, map[string]string{witness.KeyAnnotation: author.public()}
	p.nodes = append(p.nodes, witness.FromObject(obj))
	p.start(name, author)
}

// start starts a council that knows nothing yet.
func (p *parliament) start(name string, author *author) {
	p.out[name] = map[string]bool{}
	send := func(to []string, statements []skepv1.Statement) {
		datagrams, err := messages(testKey, statements)
		if err != nil {
			p.tb.Fatal(err)
		}
		for _, data := range datagrams {
			for _, one := range to {
				p.queue = append(p.queue, letter{name, one, data})
			}
		}
	}
	p.councils[name] = newCouncil(author, func() time.Time { return p.now }, outlets{
		tell: send,
		everyone: func(statements []skepv1.Statement) {
			var all []string
			for _, n := range p.nodes {
				if n.Name != name {
					all = append(all, n.Name)
				}
			}
			send(all, statements)
		},
		report: func([]skepv1.Statement) { p.reports[name]++ },
		eject: func(node string, out bool) {
			if p.out[name][node] = out; !out {
				delete(p.out[name], node)
			}
		},
	})
}

func (p *parliament) publish() {
	for _, c := range p.councils {
		c.setNodes(slices.Clone(p.nodes))
	}
}

// deliver brings every message to those who are not cut off.
func (p *parliament) deliver() {
	for len(p.queue) > 0 {
		l := p.queue[0]
		p.queue = p.queue[1:]
		if p.cut[l.from] || p.cut[l.to] {
			continue
		}
		statements, err := parseMessage(testKey, l.data)
		if err != nil {
			p.tb.Fatal(err)
		}
		p.councils[l.to].heard(netip.MustParseAddr("192.0.2.1"), statements)
	}
}

func (p *parliament) watchers(subject string) []string {
	return p.councils["node0"].verdicts.Ring().Watchers(subject)
}

func (p *parliament) find(by, node string, reachable bool) {
	p.councils[by].found(finding{node, reachable, p.now})
	p.deliver()
}

// pass lets time pass, with ticks.
func (p *parliament) pass(d time.Duration) {
	for end := p.now.Add(d); p.now.Before(end); {
		p.now = p.now.Add(time.Second)
		for name, c := range p.councils {
			if !p.cut[name] {
				c.tick()
			}
		}
		p.deliver()
	}
}

// want checks who has the node out: all that are not cut off, or nobody.
func (p *parliament) want(when, node string, out bool) {
	p.tb.Helper()
	for name := range p.councils {
		if name != node && !p.cut[name] && p.out[name][node] != out {
			p.tb.Errorf("%s: %s has %s out of its maps: %v, want %v", when, name, node, !out, out)
		}
	}
}

func TestAVerdictReachesEveryNode(t *testing.T) {
	p := newParliament(t, 12)
	const lost = "node5"
	p.cut[lost] = true
	w := p.watchers(lost)
	p.find(w[0], lost, false)
	p.want("one witness", lost, false)
	if len(p.reports) > 0 {
		t.Errorf("reported without a verdict: %v", p.reports)
	}
	p.find(w[1], lost, false)
	p.want("two witnesses", lost, true)
	if p.reports[w[0]] == 0 || p.reports[w[1]] == 0 {
		t.Errorf("reports %v, want some of %v", p.reports, w[:2])
	}
	p.pass(5 * time.Minute) // without a control plane
	p.want("five minutes later", lost, true)
	p.cut[lost] = false
	p.find(w[0], lost, true)
	p.want("one of two reaches it again", lost, false)
	p.find(w[1], lost, true)
	p.pass(3 * time.Minute)
	p.want("all reach it again", lost, false)
}

// What is not repeated ends: nobody stays out because the witnesses went away.
func TestVerdictsEndWithTheirWitnesses(t *testing.T) {
	p := newParliament(t, 12)
	w := p.watchers("node5")
	p.find(w[0], "node5", false)
	p.find(w[1], "node5", false)
	p.want("verdict", "node5", true)
	p.cut[w[0]], p.cut[w[1]] = true, true
	p.pass(witness.Validity + 2*time.Second)
	p.want("a minute after its witnesses went", "node5", false)
}

// An agent that starts during an outage learns of it by what the witnesses repeat, unless the control plane has the node out already.
func TestAnAgentStartsDuringAnOutage(t *testing.T) {
	p := newParliament(t, 12)
	const lost = "node5"
	p.cut[lost] = true
	w := p.watchers(lost)
	p.find(w[0], lost, false)
	p.find(w[2], lost, false)
	other := slices.IndexFunc(p.nodes, func(n witness.Node) bool { return n.Name != lost && !slices.Contains(w, n.Name) })
	name := p.nodes[other].Name
	p.start(name, p.councils[name].author)
	p.publish()
	p.pass(witness.Renewal + 2*time.Second)
	p.want("after it has started", lost, true)
	for i := range p.nodes {
		p.nodes[i].Down = p.nodes[i].Down || p.nodes[i].Name == lost
	}
	p.start(name, p.councils[name].author)
	p.publish()
	p.pass(witness.Renewal + 2*time.Second)
	if p.out[name][lost] {
		t.Error("statements are repeated to all nodes about one that the control plane has out")
	}
}

// When a third of the nodes seem gone at once, those that were out come back, until the control plane confirms it.
func TestManyAtOnceStopEjection(t *testing.T) {
	p := newParliament(t, 9)
	for i, lost := range []string{"node1", "node2", "node3"} {
		p.cut[lost] = true
		for _, w := range p.watchers(lost) {
			if !p.cut[w] {
				p.find(w, lost, false)
			}
		}
		if i == 0 {
			p.want("one of nine", lost, true)
		}
	}
	down := p.councils["node0"].verdicts.Down()
	if len(down) < 3 {
		t.Fatalf("verdicts against %v only", down)
	}
	for _, lost := range down {
		p.want("three of nine", lost, false)
	}
	for i := range p.nodes {
		p.nodes[i].Down = p.cut[p.nodes[i].Name]
	}
	p.publish()
	for _, lost := range down {
		p.want("confirmed", lost, true)
	}
}

func TestMessagesOfOthers(t *testing.T) {
	p := newParliament(t, 12)
	w := p.watchers("node5")
	s, err := p.councils[w[0]].author.state(finding{"node5", false, p.now}, p.now)
	if err != nil {
		t.Fatal(err)
	}
	datagrams, err := messages(testKey, slices.Repeat([]skepv1.Statement{s}, 40))
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, data := range datagrams {
		if len(data) > mostSize {
			t.Errorf("a datagram of %d bytes", len(data))
		}
		statements, err := parseMessage(testKey, data)
		if err != nil {
			t.Fatal(err)
		}
		count += len(statements)
		for i := range data {
			changed := slices.Clone(data)
			changed[i] ^= 1
			if _, err := parseMessage(testKey, changed); err == nil {
				t.Fatalf("accepted with byte %d changed", i)
			}
		}
		for cut := range data {
			if _, err := parseMessage(testKey, data[:cut]); err == nil {
				t.Fatalf("accepted when cut to %d bytes", cut)
			}
		}
		if _, err := parseMessage(flow.ProbeKey{}, data); err == nil {
			t.Error("accepted with another key")
		}
	}
	if count != 40 || len(datagrams) > 7 {
		t.Errorf("%d statements in %d datagrams, want 40 in few", count, len(datagrams))
	}
}

// One address can make nobody verify more than so many signatures.
func TestFloodOfStatements(t *testing.T) {
	p := newParliament(t, 12)
	w := p.watchers("node5")
	c := p.councils["node5"]
	from := netip.MustParseAddr("192.0.2.66")
	for i := range 5000 {
		c.heard(from, []skepv1.Statement{{Witness: w[0], Subject: "node5", At: p.now, Sequence: 1<<62 + uint64(i), Signature: make([]byte, 64)}})
	}
	if _, err := p.councils[w[0]].author.state(finding{"node5", false, p.now}, p.now); err != nil {
		t.Fatal(err)
	}
	if s := c.summary(); s.refused != 5000 || s.accepted != 0 {
		t.Errorf("%+v, want 5000 refused", s)
	}
	if c.permits(from, p.now) || !c.permits(netip.MustParseAddr("192.0.2.67"), p.now) {
		t.Error("the bound must be of the sender's address, and of no other")
	}
}
