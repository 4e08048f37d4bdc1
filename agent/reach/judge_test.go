package reach

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// world is links from one node to those that it watches, in virtual time: what happens in each round is said by answer and late.
type world struct {
	judge *judge
	now   time.Time
	names []string
	// answer is after how many rounds the probe of a round is answered; -1: never.
	answer func(node string, round int) int
	late   func(round int) bool
	round  int
	due    map[int][]reply
}

type reply struct {
	node  string
	round uint64
}

func newWorld(nodes int) *world {
	w := &world{judge: newJudge(), now: time.Unix(1_800_000_000, 0), due: map[int][]reply{},
		answer: func(string, int) int { return 0 }, late: func(int) bool { return false }}
	for i := range nodes {
		w.names = append(w.names, fmt.Sprint("n", i))
	}
	w.judge.Watch(w.names)
	return w
}

// run runs so many rounds, and returns what was found in which.
func (w *world) run(rounds int) (found []finding) {
	for range rounds {
		w.now = w.now.Add(interval)
		for _, r := range w.due[w.round] {
			w.judge.Answered(r.node, r.round)
		}
		delete(w.due, w.round)
		found = append(found, w.judge.Judge(w.now, w.late(w.round))...)
		w.judge.Next()
		for _, name := range w.names {
			w.judge.Sent(name, w.now)
			if after := w.answer(name, w.round); after >= 0 {
				w.due[w.round+1+after] = append(w.due[w.round+1+after], reply{name, w.judge.Round()})
			}
		}
		w.round++
	}
	return found
}

// settle lets every node answer for a while.
func (w *world) settle(t *testing.T) {
	t.Helper()
	if found := w.run(200); len(found) > 0 {
		t.Fatalf("nodes that answer: %+v", found)
	}
}

func silent(nodes ...string) func(string, int) int {
	return func(node string, _ int) int {
		for _, name := range nodes {
			if name == node {
				return -1
			}
		}
		return 0
	}
}

func TestALostNodeIsFoundInFiveProbes(t *testing.T) {
	w := newWorld(3)
	w.settle(t)
	w.answer = silent("n1")
	cut := w.now
	if found := w.run(lostRounds); len(found) > 0 {
		t.Fatalf("after %d rounds: %+v", lostRounds, found)
	}
	found := w.run(1)
	if len(found) != 1 || found[0].node != "n1" || found[0].reachable || found[0].since.Before(cut) || found[0].since.After(cut.Add(interval)) {
		t.Fatalf("cut at %s, found %+v", cut, found)
	}
	if found := w.run(1000); len(found) > 0 {
		t.Errorf("found again: %+v", found)
	}
	w.answer = silent()
	if found = w.run(returnRounds + 1); len(found) != 1 || !found[0].reachable {
		t.Errorf("back: %+v", found)
	}
}

// Whoever is cut off itself accuses nobody, neither then nor when it is back, whatever order the others answer in.
func TestACutOffProberAccusesNobody(t *testing.T) {
	for _, watched := range []int{1, 2, 3, 5} {
		for outage := range 60 {
			w := newWorld(watched)
			w.settle(t)
			w.answer = silent(w.names...)
			found := w.run(outage)
			if outage > lostRounds && !w.judge.Alone() {
				t.Errorf("after %d rounds without an answer it does not know that it is alone", outage)
			}
			w.answer = func(node string, round int) int { // they come back one after the other
				for i, name := range w.names {
					if name == node && i > 0 && round < 200+outage+i {
						return -1
					}
				}
				return 0
			}
			if found = append(found, w.run(100)...); len(found) > 0 {
				t.Errorf("%d nodes, %d rounds: %+v", watched, outage, found)
			}
		}
	}
}

func TestRoundsThatCountAgainstNobody(t *testing.T) {
	t.Run("late", func(t *testing.T) {
		w := newWorld(3)
		w.settle(t)
		w.late = func(int) bool { return true }
		w.answer = silent("n0")
		if found := w.run(500); len(found) > 0 {
			t.Errorf("%+v", found)
		}
	})
	t.Run("every second one late", func(t *testing.T) { // such a node is slower to accuse, but does
		w := newWorld(3)
		w.late = func(round int) bool { return round%2 == 0 }
		w.settle(t)
		w.answer = silent("n0")
		if found := w.run(2 * lostRounds); len(found) > 0 {
			t.Errorf("accused as fast as by a healthy node: %+v", found)
		}
		if found := w.run(2 * mostPatience); len(found) != 1 {
			t.Errorf("found %+v, want n0", found)
		}
	})
	t.Run("not sent", func(t *testing.T) {
		w := newWorld(2)
		w.settle(t)
		for range 100 {
			w.judge.Answered("n1", w.judge.Round())
			if found := w.judge.Judge(w.now, false); len(found) > 0 {
				t.Fatalf("%+v", found)
			}
			w.judge.Next()
			w.judge.Sent("n1", w.now)
		}
	})
}

// An answer that is late by less than the window says that the node is there.
func TestLateAnswersCount(t *testing.T) {
	for _, delay := range []int{1, 4, 6, 20, window - 3} {
		w := newWorld(2)
		w.answer = func(string, int) int { return delay }
		if found := w.run(1000); len(found) > 0 {
			t.Errorf("answers %d rounds late: %+v", delay, found)
		}
	}
}

func TestAnswersThatDoNotCount(t *testing.T) {
	j := newJudge()
	j.Watch([]string{"a"})
	now := time.Unix(1, 0)
	for range 100 {
		j.Judge(now, false)
		j.Next()
		j.Sent("a", now)
	}
	for name, r := range map[string]reply{"of another node": {"b", 100}, "of the future": {"a", 101}, "too old": {"a", 100 - window}, "of a round long ago": {"a", 1}} {
		if j.Answered(r.node, r.round) {
			t.Errorf("an answer %s counts", name)
		}
	}
	if !j.Answered("a", 100) || j.Answered("a", 100) {
		t.Error("an answer must count, and once")
	}
}

// What has never answered has nothing to lose: a host whose firewall drops probes is not accused.
func TestNodesThatNeverAnswered(t *testing.T) {
	w := newWorld(3)
	w.answer = silent("n2")
	if found := w.run(1000); len(found) > 0 {
		t.Errorf("%+v", found)
	}
}

// Each time that a link is lost again soon, the node is back later.
func TestFlapping(t *testing.T) {
	w := newWorld(3)
	w.settle(t)
	var back []int
	for range 10 {
		w.answer = silent("n0")
		if found := w.run(mostLostRounds + 2); len(found) != 1 || found[0].reachable {
			t.Fatalf("lost: %+v", found)
		}
		w.answer = silent()
		rounds := 0
		for found := []finding(nil); len(found) == 0; rounds++ {
			found = w.run(1)
		}
		back = append(back, rounds)
	}
	for i := 1; i < len(back); i++ {
		if i <= mostFlaps && back[i] < 2*back[i-1]-2 || i > mostFlaps && back[i] != back[i-1] {
			t.Fatalf("rounds until it is back: %v, want each twice the last up to %d times", back, mostFlaps)
		}
	}
	w.run(int(flapMemory/interval) + 1)
	w.answer = silent("n0")
	w.run(mostLostRounds)
	w.answer = silent()
	if found := w.run(returnRounds + 1); len(found) != 1 {
		t.Errorf("a long time later it is not back at once: %+v", found)
	}
}

// lossy is a world in which the answers of n0 are lost at random: 0.51 is what 30 % each way make together.
func lossy(loss float64, seed uint64) *world {
	random := rand.New(rand.NewPCG(seed, uint64(loss*1000)))
	w := newWorld(3)
	w.answer = func(node string, _ int) int {
		if node == "n0" && random.Float64() < loss {
			return -1
		}
		return 0
	}
	return w
}

// Hosts on links that lose many packets are slow, but there: no witness suspects one in ten hours.
func TestLossyLinks(t *testing.T) {
	const rounds = int(10 * time.Hour / interval)
	for _, loss := range []float64{0.01, 0.3, 0.51} {
		if found := lossy(loss, 5).run(rounds); len(found) > 0 {
			t.Errorf("loss %.3f: %d findings in 10 hours, the first %+v", loss, len(found), found[0])
		}
	}
}

// When such losses begin all at once, one witness may suspect the host for a moment; two at the same time, which makes a verdict, are rare.
func TestLossesBegin(t *testing.T) {
	const trials, rounds = 500, 200
	for _, c := range []struct {
		loss float64
		most int // verdicts in so many trials
	}{{0.1, 0}, {0.3, 5}, {0.51, 40}} {
		single, verdicts := 0, 0
		for trial := range uint64(trials) {
			var witnesses [3]*world
			suspect := map[int]bool{}
			for i := range witnesses {
				witnesses[i] = lossy(c.loss, trial*3+uint64(i))
				lost := witnesses[i].answer
				witnesses[i].answer = silent()
				witnesses[i].run(100)
				witnesses[i].answer = lost
			}
			any, two := false, false
			for range rounds {
				for i, w := range witnesses {
					for _, f := range w.run(1) {
						if suspect[i] = !f.reachable; f.reachable {
							delete(suspect, i)
						}
					}
				}
				any, two = any || len(suspect) > 0, two || len(suspect) > 1
			}
			if any {
				single++
			}
			if two {
				verdicts++
			}
		}
		t.Logf("loss %.2f begins: of %d hosts, %d are suspected by one witness and %d by two at once", c.loss, trials, single, verdicts)
		if verdicts > c.most {
			t.Errorf("loss %.2f begins: verdicts against %d of %d hosts, want at most %d", c.loss, verdicts, trials, c.most)
		}
	}
}
