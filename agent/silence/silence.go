// Package silence detects that a running process no longer answers, so that its parent can kill it
// and start it again. Nothing else would detect that: its socket still accepts connections. It
// kills nothing itself.
package silence

import (
	"context"
	"log/slog"
	"time"
)

// Clock measures the time since a process last answered.
type Clock struct {
	what             string
	within, patience time.Duration
	logger           *slog.Logger
	answered         time.Time
}

// NewClock returns a clock that begins now. Each request may take the time within; a process that
// has not answered for the time patience must be killed.
func NewClock(what string, within, patience time.Duration, logger *slog.Logger) *Clock {
	return &Clock{what: what, within: within, patience: patience, logger: logger, answered: time.Now()}
}

// Ask sends the process one request, logs if it does not answer, and returns whether it must be
// killed. The clock then restarts: a process that is stuck in the kernel ends when that returns.
// attributes are for the log.
func (c *Clock) Ask(ctx context.Context, ask func(context.Context) error, attributes ...any) (kill bool) {
	asking, cancel := context.WithTimeout(ctx, c.within)
	defer cancel()
	err := ask(asking)
	if ctx.Err() != nil {
		return false
	}
	if err == nil {
		c.answered = time.Now()
		return false
	}
	silent := time.Since(c.answered)
	attributes = append(attributes, "since", silent.Round(time.Second), "err", err)
	if silent < c.patience {
		c.logger.Warn(c.what+" does not answer", append(attributes, "killed_after", c.patience)...)
		return false
	}
	c.logger.Error(c.what+" does not answer; killing it, to start it again", attributes...)
	c.answered = time.Now()
	return true
}
