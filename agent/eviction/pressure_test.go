package eviction

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func parse(t *testing.T, s Settings) []Threshold {
	t.Helper()
	list, err := Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func names(due []Threshold) (list []string) {
	for _, d := range due {
		kind := "soft"
		if d.Hard {
			kind = "hard"
		}
		list = append(list, fmt.Sprintf("%s %s", d.Signal, kind))
	}
	return list
}

// Each row is a moment: what is available of 1000 bytes of memory, 1000 of disk and 100 processes, and what follows from it and
// the rows before it.
func TestPressure(t *testing.T) {
	p := NewPressure(parse(t, Settings{
		Hard: "nodefs.available<10%,pid.available<5%,memory.available<100", Soft: "memory.available<200",
		SoftGracePeriod: "memory.available=30s", MinimumReclaim: "nodefs.available=5%",
	}), 5*time.Minute)
	start := time.Now()
	for _, row := range []struct {
		at                  time.Duration
		memory, disk, pids  int64
		conditions, ripened string
	}{
		{0, 500, 500, 50, "", ""},
		{1, 200, 100, 5, "", ""}, // exactly what has to be left
		{10, 199, 500, 50, "MemoryPressure", ""},
		{39, 199, 500, 50, "MemoryPressure", ""},
		{40, 199, 500, 50, "MemoryPressure", "memory.available soft"},
		{41, 200, 500, 50, "MemoryPressure", ""}, // and its grace period begins again
		{42, 199, 500, 50, "MemoryPressure", ""},
		{60, 99, 99, 4, "MemoryPressure DiskPressure PIDPressure", "memory.available hard,nodefs.available hard,pid.available hard"},
		{61, 300, 149, 50, "MemoryPressure DiskPressure PIDPressure", "nodefs.available hard"}, // less than the minimum was reclaimed
		{62, 300, 150, 50, "MemoryPressure DiskPressure PIDPressure", ""},
		{63, 300, 149, 50, "MemoryPressure DiskPressure PIDPressure", ""}, // it is over, so only the threshold counts
		{359, 300, 500, 50, "MemoryPressure DiskPressure PIDPressure", ""},
		{360, 300, 500, 50, "DiskPressure", ""}, // five minutes after it was last short of memory
		{361, 300, 500, 50, "", ""},
	} {
		o := Observations{
			MemoryAvailable: {row.memory, 1000}, NodeFsAvailable: {row.disk, 1000}, PIDAvailable: {row.pids, 100},
		}
		conditions, due := p.Observe(start.Add(row.at*time.Second), o)
		var kinds []string
		for _, c := range conditions {
			kinds = append(kinds, string(c))
		}
		if got := strings.Join(kinds, " "); got != row.conditions {
			t.Errorf("at %d s: conditions %q, want %q", row.at, got, row.conditions)
		}
		if got := strings.Join(names(due), ","); got != row.ripened {
			t.Errorf("at %d s: due %q, want %q", row.at, got, row.ripened)
		}
	}
	if conditions, due := p.Observe(start.Add(time.Hour), Observations{}); conditions != nil || due != nil {
		t.Errorf("of nothing measured follows %v, %v", conditions, due)
	}
}

// Without a transition period a condition is true exactly while its threshold is met.
func TestPressureWithoutTransition(t *testing.T) {
	p := NewPressure(parse(t, Settings{Hard: "pid.available<5"}), 0)
	now := time.Now()
	for i, want := range []bool{false, true, true, false} {
		left := int64(5)
		if want {
			left = 4
		}
		conditions, _ := p.Observe(now.Add(time.Duration(i)*time.Second), Observations{PIDAvailable: {left, 100}})
		if slices.Contains(conditions, corev1.NodePIDPressure) != want {
			t.Errorf("look %d: %v", i, conditions)
		}
	}
}
