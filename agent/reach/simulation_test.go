package reach

import (
	"bufio"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"
)

// recorded is a round of dataplane/flow.TestProbesOverWires, recorded on a machine with a load of 10 on 2 CPUs: how late the
// prober's timer was, and after how many rounds each of three nodes had answered; -1: never.
type recorded struct {
	late   bool
	rounds [3]int
}

func recording(tb testing.TB) (all []recorded) {
	tb.Helper()
	f, err := os.Open("testdata/delays.txt")
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if strings.HasPrefix(s.Text(), "#") {
			continue
		}
		var late int
		var delays [3]int
		if _, err := fmt.Sscan(s.Text(), &late, &delays[0], &delays[1], &delays[2]); err != nil {
			tb.Fatalf("%q: %v", s.Text(), err)
		}
		r := recorded{late: time.Duration(late)*time.Millisecond > tooLate}
		for i, d := range delays {
			if r.rounds[i] = -1; d >= 0 {
				r.rounds[i] = int(time.Duration(d) * time.Millisecond / interval)
			}
		}
		all = append(all, r)
	}
	if len(all) < 2*blockRounds {
		tb.Fatalf("%d rounds are recorded", len(all))
	}
	return all
}

// blockRounds is how many rounds in a row are taken from one place of the recording, so that what happened together does so again.
const blockRounds = 100

// simulation is a cluster of nodes in a ring, each of which watches the next three, in virtual time. In each block a node is as slow to
// answer, for all that watch it, as some node was somewhere in the recording, and its own timer as late as it was elsewhere.
type simulation struct {
	trace   []recorded
	random  *rand.Rand
	judges  []*judge
	names   []string
	timers  []int // place in the trace
	answers []place
	suspect []map[int]bool // by subject: who suspects it
	due     [][]waiting    // by watcher
	now     time.Time

	suspicions, verdicts int
}

type place struct{ at, column int }

// waiting is an answer that is on its way.
type waiting struct {
	node, left int
	round      uint64
}

func newSimulation(tb testing.TB, nodes int) *simulation {
	s := &simulation{trace: recording(tb), random: rand.New(rand.NewPCG(7, 11)), now: time.Unix(1_800_000_000, 0)}
	for i := range nodes {
		s.names = append(s.names, fmt.Sprint(i))
	}
	for i := range nodes {
		j := newJudge()
		j.Watch([]string{s.names[(i+1)%nodes], s.names[(i+2)%nodes], s.names[(i+3)%nodes]})
		s.judges = append(s.judges, j)
		s.suspect = append(s.suspect, map[int]bool{})
	}
	s.timers, s.answers, s.due = make([]int, nodes), make([]place, nodes), make([][]waiting, nodes)
	return s
}

func (s *simulation) run(rounds int) {
	for round := range rounds {
		if round%blockRounds == 0 {
			for i := range s.judges {
				s.timers[i] = s.random.IntN(len(s.trace) - blockRounds)
				s.answers[i] = place{s.random.IntN(len(s.trace) - blockRounds), s.random.IntN(3)}
			}
		}
		s.now = s.now.Add(interval)
		for i := range s.judges {
			s.step(i, round%blockRounds)
		}
	}
}

func (s *simulation) step(i, offset int) {
	j, due := s.judges[i], s.due[i][:0]
	for _, w := range s.due[i] {
		if w.left > 0 {
			w.left--
			due = append(due, w)
			continue
		}
		j.Answered(s.names[w.node], w.round)
	}
	for _, f := range j.Judge(s.now, s.trace[s.timers[i]+offset].late) {
		var node int
		fmt.Sscan(f.node, &node)
		s.note(i, node, f.reachable)
	}
	j.Next()
	for k := range 3 {
		node := (i + 1 + k) % len(s.judges)
		j.Sent(s.names[node], s.now)
		at := s.answers[node]
		if after := s.trace[at.at+offset].rounds[at.column]; after >= 0 {
			due = append(due, waiting{node, after, j.Round()})
		}
	}
	s.due[i] = due
}

func (s *simulation) note(watcher, node int, reachable bool) {
	if reachable {
		delete(s.suspect[node], watcher)
		return
	}
	s.suspicions++
	if s.suspect[node][watcher] = true; len(s.suspect[node]) == 2 {
		s.verdicts++
	}
}

// Nobody is taken for lost where all hosts are saturated all the time: an hour of 20 nodes here, ten hours of 5,000 by `make simulate`.
func TestNoFalseAlarmFromRecordedDelays(t *testing.T) {
	s := newSimulation(t, 20)
	s.run(int(time.Hour / interval))
	t.Logf("%d suspicions of one witness, %d verdicts", s.suspicions, s.verdicts)
	if s.verdicts > 0 {
		t.Errorf("%d false alarms", s.verdicts)
	}
	// The simulation can raise one: a node that answers nobody.
	for i := range s.trace {
		s.trace[i].rounds[2] = -1
	}
	if s.run(20 * blockRounds); s.verdicts == 0 {
		t.Error("nodes that do not answer for five seconds are not noticed")
	}
}

var (
	simulated = flag.Int("nodes", 100, "how many nodes BenchmarkSimulation has")
	hours     = flag.Float64("hours", 1, "how long it simulates")
)

// BenchmarkSimulation reports false alarms among saturated nodes. `make simulate` has 5,000 of them for ten hours.
func BenchmarkSimulation(b *testing.B) {
	for b.Loop() {
		s := newSimulation(b, *simulated)
		s.run(int(*hours * float64(time.Hour/interval)))
		b.ReportMetric(float64(s.suspicions), "suspicions")
		b.ReportMetric(float64(s.verdicts), "verdicts")
		b.ReportMetric(*hours*float64(*simulated), "node-hours")
	}
}
