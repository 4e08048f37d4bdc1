package agent

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestStartTime tests that starts that fail one after another share what one start has.
func TestStartTime(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "starting")
	for _, step := range []struct {
		age       time.Duration // of the first of the starts
		least, to time.Duration
	}{
		{0, startLimit, startLimit},
		{10 * time.Second, startLimit - 15*time.Second, startLimit - 10*time.Second},
		{time.Hour, -time.Hour, 0},
		{-time.Hour, startLimit, startLimit}, // the clock was set back
	} {
		if step.age != 0 {
			first := time.Now().Add(-step.age)
			if err := os.Chtimes(mark, first, first); err != nil {
				t.Fatal(err)
			}
		}
		left, err := startTime(mark)
		if err != nil || left < step.least || left > step.to {
			t.Errorf("first start %v ago: %v left, %v; want from %v to %v", step.age, left, err, step.least, step.to)
		}
	}
}
