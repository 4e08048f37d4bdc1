package invariant

import (
	"testing"
)

func TestBindingsAndEndsAreFinal(t *testing.T) {
	for name, c := range map[string]struct {
		seen []Seen
		kept bool
	}{
		"as usual":        {[]Seen{{}, {Host: "h1"}, {Host: "h1", Phase: "Running"}, {Host: "h1", Phase: "Failed"}, {Host: "h1", Phase: "Failed"}}, true},
		"bound twice":     {[]Seen{{Host: "h1"}, {Host: "h2"}}, false},
		"unbound":         {[]Seen{{Host: "h1"}, {}}, false},
		"runs after all":  {[]Seen{{Host: "h1", Phase: "Failed"}, {Host: "h1", Phase: "Running"}}, false},
		"fails after all": {[]Seen{{Host: "h1", Phase: "Succeeded"}, {Host: "h1", Phase: "Failed"}}, false},
	} {
		p := &Pods{}
		for _, s := range c.seen {
			s.UID, s.Name, s.At = "u", "ns/p", epoch
			p.See(s)
		}
		if got := p.Violations(); (len(got) == 0) != c.kept {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestOneIdentityRunsOnce(t *testing.T) {
	p := &Pods{}
	p.See(Seen{UID: "old", Name: "ns/db-0", Host: "h1"})
	p.See(Seen{UID: "new", Name: "ns/db-0", Host: "h2"})
	p.See(Seen{UID: "other", Name: "ns/db-1", Host: "h2"})
	p.Together(at(0), []Running{{"old", "h1"}, {"other", "h2"}})
	p.Together(at(1), []Running{{"new", "h2"}, {"other", "h2"}, {"unknown", "h2"}, {"unknown", "h1"}})
	if got := p.Violations(); len(got) != 0 {
		t.Fatalf("one after the other: %v", got)
	}
	p.Together(at(2), []Running{{"old", "h1"}, {"new", "h2"}})
	if got := p.Violations(); len(got) != 1 {
		t.Errorf("both together: %v", got)
	}
	p.Together(at(3), []Running{{"other", "h1"}, {"other", "h2"}})
	if got := p.Violations(); len(got) != 2 {
		t.Errorf("one pod on two hosts: %v", got)
	}
}

func TestNoConnectionAfterTheAcknowledgement(t *testing.T) {
	p := &Pods{}
	p.See(Seen{UID: "u", Name: "ns/web", Host: "h1", At: at(0)})
	p.See(Seen{UID: "u", Name: "ns/web", Host: "h1", Drained: true, At: at(20_000)})
	p.See(Seen{UID: "u", Name: "ns/web", Host: "h1", Drained: true, At: at(21_000)})
	p.See(Seen{UID: "stays", Name: "ns/web2", Host: "h1", At: at(20_000)})
	for name, c := range map[string]struct {
		attempt Attempt
		outage  Outage
		kept    bool
	}{
		"before":                          {Attempt{"h2", "u", at(19_999)}, Outage{}, true},
		"after":                           {Attempt{"h2", "u", at(20_001)}, Outage{}, false},
		"after, at another pod":           {Attempt{"h2", "stays", at(20_001)}, Outage{}, true},
		"from a host that was cut off":    {Attempt{"h2", "u", at(20_001)}, Outage{"h2", at(15_000), at(25_000)}, true},
		"from one that was just back":     {Attempt{"h2", "u", at(20_001)}, Outage{"h2", at(15_000), at(19_000)}, true},
		"from one that was long back":     {Attempt{"h2", "u", at(20_001)}, Outage{"h2", at(1_000), at(2_000)}, false},
		"from one that was cut off later": {Attempt{"h2", "u", at(20_500)}, Outage{"h2", at(20_400), at(25_000)}, false},
		"while another was cut off":       {Attempt{"h2", "u", at(20_001)}, Outage{"h3", at(15_000), at(25_000)}, false},
	} {
		if got := p.Drained([]Attempt{c.attempt}, []Outage{c.outage}); (len(got) == 0) != c.kept {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestWatchIsComplete(t *testing.T) {
	for name, c := range map[string]struct {
		received, acknowledged []uint64
		kept                   bool
		gap                    [2]uint64
	}{
		"complete":         {[]uint64{1, 2, 5, 7}, []uint64{2, 7}, true, [2]uint64{}},
		"one is missing":   {[]uint64{1, 5, 7}, []uint64{2, 7}, false, [2]uint64{}},
		"out of order":     {[]uint64{1, 5, 2, 7}, []uint64{2, 7}, false, [2]uint64{}},
		"received twice":   {[]uint64{1, 2, 2, 7}, []uint64{2, 7}, false, [2]uint64{}},
		"a reported gap":   {[]uint64{1, 5, 7}, []uint64{2, 3, 7}, true, [2]uint64{1, 3}},
		"past the gap":     {[]uint64{1, 5, 7}, []uint64{2, 4, 7}, false, [2]uint64{1, 3}},
		"the last missing": {[]uint64{1, 2}, []uint64{2, 7}, false, [2]uint64{}},
	} {
		e := &Events{Name: "w"}
		for _, revision := range c.received {
			e.Add(revision)
		}
		if c.gap[1] != 0 {
			e.Gap(c.gap[0], c.gap[1])
		}
		if got := e.Complete(c.acknowledged); (len(got) == 0) != c.kept {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestLeft(t *testing.T) {
	if got := Left("mount", []string{"/a", "/b"}, []string{"/b"}); len(got) != 0 {
		t.Error(got)
	}
	if got := Left("mount", []string{"/a"}, []string{"/a", "/leak"}); len(got) != 1 {
		t.Error(got)
	}
}
