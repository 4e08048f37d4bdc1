package reach

import (
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/witness"
)

// Statements from one address that are looked at: more than that no node sends in its right mind.
const (
	perSender = rate.Limit(200)
	burst     = 1000
)

// council is what this node knows of all nodes: their statements, the verdicts, and what follows for its maps. What it has to tell others
// it hands to its outlets, which do not block.
type council struct {
	self    string
	author  *author
	now     func() time.Time
	outlets outlets

	mu       sync.Mutex
	verdicts *witness.Verdicts
	nodes    []witness.Node
	lost     map[string]finding // by this node's own probes
	renewed  time.Time
	staleAt  time.Time       // when it was last logged that clocks differ
	out      map[string]bool // taken out of the maps
	held     map[string]int
	senders  map[netip.Addr]*rate.Limiter
	tally    tally
}

// outlets are where a council's decisions go.
type outlets struct {
	// tell sends statements to some nodes, everybody to all others.
	tell     func(nodes []string, statements []skepv1.Statement)
	everyone func(statements []skepv1.Statement)
	// report sends statements to the API server.
	report func(statements []skepv1.Statement)
	// eject takes a node's backends out of this node's maps, or puts them back.
	eject func(node string, out bool)
}

// tally counts since the agent started.
type tally struct {
	made, accepted, known, refused uint64 // statements
	verdicts                       uint64
}

func newCouncil(author *author, now func() time.Time, outlets outlets) *council {
	return &council{
		self: author.node, author: author, now: now, outlets: outlets, verdicts: witness.NewVerdicts(), lost: map[string]finding{},
		out: map[string]bool{}, held: map[string]int{}, senders: map[netip.Addr]*rate.Limiter{},
	}
}

// setNodes takes the cluster's nodes, and returns those that this one has to watch.
func (c *council) setNodes(nodes []witness.Node) (watched []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes = nodes
	changes := c.verdicts.SetNodes(nodes, c.now())
	watched = c.verdicts.Ring().Watched(c.self)
	for name := range c.lost {
		if !slices.Contains(watched, name) {
			delete(c.lost, name)
		}
	}
	clear(c.senders)
	c.follow(changes)
	return watched
}

// found takes what this node's probes say.
func (c *council) found(f finding) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.reachable {
		delete(c.lost, f.node)
	} else {
		c.lost[f.node] = f
	}
	slog.Info("probes of another node", "node", f.node, "reachable", f.reachable, "since", f.since.UTC())
	c.state(f)
}

// state says what this node finds, to the other watchers, and to all if it changes the verdict or the verdict is against the node.
func (c *council) state(f finding) {
	now := c.now()
	s, err := c.author.state(f, now)
	if err != nil {
		slog.Error("a node's state cannot be signed", "node", f.node, "err", err)
		return
	}
	c.tally.made++
	change, err := c.verdicts.Add(s, now)
	if err != nil {
		// The ring has changed, or the API server has not published this node's key yet.
		slog.Info("this node's own statement does not count", "node", f.node, "err", err)
		return
	}
	others := slices.DeleteFunc(c.verdicts.Ring().Watchers(f.node), func(name string) bool { return name == c.self })
	c.outlets.tell(others, []skepv1.Statement{s})
	if change != nil {
		c.proclaim(*change)
		c.follow([]witness.Change{*change})
	}
}

// heard takes statements that came from an address.
func (c *council) heard(from netip.Addr, statements []skepv1.Statement) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	for _, s := range statements {
		if s.Witness == c.self {
			continue
		}
		if !c.permits(from, now) {
			c.tally.refused++
			continue
		}
		change, err := c.verdicts.Add(s, now)
		switch {
		case errors.Is(err, witness.ErrKnown):
			c.tally.known++
		case err != nil:
			c.tally.refused++
			c.noteRefusal(s.Witness, err, now)
		default:
			c.tally.accepted++
		}
		if change == nil {
			continue
		}
		if c.verdicts.Ring().IsWatcher(c.self, change.Node) {
			c.proclaim(*change)
		}
		c.follow([]witness.Change{*change})
	}
}

// noteRefusal logs once a minute that clocks differ: without that a node would be no witness and nobody would know. Other refusals are
// ordinary while Node objects change.
func (c *council) noteRefusal(node string, err error, now time.Time) {
	if !errors.Is(err, witness.ErrStale) || now.Sub(c.staleAt) < time.Minute {
		slog.Debug("statement refused", "err", err)
		return
	}
	c.staleAt = now
	slog.Warn("statements of another node are refused: check the clocks of both", "node", node, "err", err)
}

// refused counts a datagram that is no node's message.
func (c *council) refused() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tally.refused++
}

// permits bounds how many statements from one address are looked at.
func (c *council) permits(from netip.Addr, now time.Time) bool {
	limit := c.senders[from]
	if limit == nil {
		limit = rate.NewLimiter(perSender, burst)
		c.senders[from] = limit
	}
	return limit.AllowN(now, 1)
}

// proclaim sends a verdict's evidence to every node and to the API server.
func (c *council) proclaim(change witness.Change) {
	c.outlets.everyone(change.Evidence)
	c.outlets.report(change.Evidence)
}

// follow logs changes of verdicts and makes the maps follow.
func (c *council) follow(changes []witness.Change) {
	for _, change := range changes {
		if change.Down {
			c.tally.verdicts++
			slog.Warn("node cannot be reached", "node", change.Node, "since", change.Since.UTC(), "witnesses", accusers(change.Evidence))
		} else {
			slog.Info("verdict against a node has ended", "node", change.Node)
		}
	}
	e := witness.Eject(c.self, c.nodes, c.verdicts.IsDown)
	for zone, gone := range e.Held {
		if c.held[zone] == 0 {
			slog.Warn("too many nodes of a zone seem gone at once: none of them is taken out of the service maps until the control plane confirms it", "zone", zone, "gone", gone)
		}
	}
	for zone := range c.held {
		if e.Held[zone] == 0 {
			slog.Info("nodes of a zone are taken out of the service maps again", "zone", zone)
		}
	}
	c.held = e.Held
	for name := range c.out {
		if !slices.Contains(e.Out, name) {
			delete(c.out, name)
			c.outlets.eject(name, false)
		}
	}
	for _, name := range e.Out {
		if !c.out[name] {
			c.out[name] = true
			c.outlets.eject(name, true)
		}
	}
}

func accusers(evidence []skepv1.Statement) (names []string) {
	for _, s := range evidence {
		if !s.Reachable {
			names = append(names, s.Witness)
		}
	}
	return names
}

// tick ends what is too old, and repeats what still holds. Call it about once a second.
func (c *council) tick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	c.follow(c.verdicts.Expire(now))
	if now.Sub(c.renewed) < witness.Renewal {
		return
	}
	c.renewed = now
	var everyone, report []skepv1.Statement
	for name, f := range c.lost {
		c.state(f)
		verdict := c.verdicts.Verdict(name, now)
		if !verdict.Down {
			continue
		}
		report = append(report, verdict.Evidence...)
		// The control plane has it out everywhere: who starts later learns it there.
		if !slices.ContainsFunc(c.nodes, func(n witness.Node) bool { return n.Name == name && n.Down }) {
			everyone = append(everyone, verdict.Evidence...)
		}
	}
	if len(everyone) > 0 {
		c.outlets.everyone(everyone)
	}
	if len(report) > 0 {
		c.outlets.report(report)
	}
}

// summary is what metrics show.
type summary struct {
	tally
	down, out, suspected int
	held                 int
}

func (c *council) summary() summary {
	c.mu.Lock()
	defer c.mu.Unlock()
	return summary{c.tally, len(c.verdicts.Down()), len(c.out), len(c.lost), len(c.held)}
}
