package invariant

import (
	"strings"
	"testing"
	"time"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// at is a moment of a history.
func at(ms int) time.Time { return epoch.Add(time.Duration(ms) * time.Millisecond) }

func history(ops ...Operation) *Registers {
	r := &Registers{}
	for i, o := range ops {
		o.Client, o.Key = i, "k"
		r.Add(o)
	}
	return r
}

func TestLinearizable(t *testing.T) {
	write := func(v string, call, end int) Operation {
		return Operation{Op: Write, Value: v, Call: at(call), Return: at(end)}
	}
	read := func(v string, call, end int) Operation {
		return Operation{Op: Read, Value: v, Call: at(call), Return: at(end)}
	}
	lost := func(o Operation) Operation { o.Return = time.Time{}; return o }
	swap := func(from, to string, call, end int) Operation {
		return Operation{Op: Swap, Before: from, Value: to, Call: at(call), Return: at(end)}
	}
	for name, c := range map[string]struct {
		ops  *Registers
		kept bool
	}{
		"one after the other":                          {history(write("a", 0, 1), read("a", 2, 3), write("b", 4, 5), read("b", 6, 7)), true},
		"a read during a write sees either":            {history(write("a", 0, 1), write("b", 2, 9), read("b", 3, 4), read("b", 5, 6)), true},
		"an acknowledged write is lost":                {history(write("a", 0, 1), write("b", 2, 3), read("a", 4, 5)), false},
		"a stale read":                                 {history(write("a", 0, 1), write("b", 2, 3), read("b", 4, 5), read("a", 6, 7)), false},
		"reads during a write go back":                 {history(write("a", 0, 1), write("b", 2, 9), read("b", 3, 4), read("a", 5, 6)), false},
		"an unanswered write is seen late":             {history(write("a", 0, 1), lost(write("b", 2, 0)), read("a", 3, 4), read("b", 5, 6)), true},
		"an unanswered write is seen and undone":       {history(write("a", 0, 1), lost(write("b", 2, 0)), read("b", 3, 4), read("a", 5, 6)), false},
		"an unanswered write takes effect twice":       {history(lost(write("b", 0, 0)), read("b", 1, 2), write("c", 3, 4), read("b", 5, 6)), false},
		"an unanswered write is never seen":            {history(write("a", 0, 1), lost(write("b", 2, 0)), read("a", 3, 4)), true},
		"two swaps of one value":                       {history(write("a", 0, 1), swap("a", "b", 2, 5), swap("a", "c", 3, 6)), false},
		"one of two swaps is unanswered and in vain":   {history(write("a", 0, 1), swap("a", "b", 2, 5), lost(swap("a", "c", 3, 0)), read("b", 7, 8)), true},
		"an unanswered swap after its value was gone":  {history(write("a", 0, 1), write("b", 2, 3), lost(swap("a", "c", 4, 0)), read("c", 5, 6)), false},
		"a value that nobody wrote":                    {history(write("a", 0, 1), read("x", 2, 3)), false},
		"a read before the first write sees the first": {history(read("a", 0, 1), write("a", 2, 3)), false},
	} {
		violations := c.ops.Linearizable(time.Minute)
		if (len(violations) == 0) != c.kept {
			t.Errorf("%s: %v", name, violations)
		}
		if !c.kept && len(violations) == 1 && !strings.Contains(violations[0].Error(), "client 1") {
			t.Errorf("%s: the violation does not show the history: %v", name, violations[0])
		}
	}
}
