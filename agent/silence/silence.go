// Package silence notices when a process that lives has stopped to answer, so
// that whoever started it can kill it and start it again. Nothing else would
// end that: its socket still accepts connections. It kills nothing itself.
package silence

import (
	"context"
	"log/slog"
	"time"
)

// Clock is the time since a process answered last.
type Clock struct {
	what             string
	within, patience time.Duration
	logger           *slog.Logger
	answered         time.Time
}

// NewClock begins now. A question has the time within for its answer; a process
// that gave none for the time of patience is to be killed.
func NewClock(what string, within, patience time.Duration, logger *slog.Logger) *Clock {
	return &Clock{what: what, within: within, patience: patience, logger: logger, answered: time.Now()}
}

// Ask asks the process once, says in the log when it does not answer, and
// returns whether it is to be killed. The clock then begins anew: one that is
// stuck in the kernel dies when it can. attributes are for the log.
func (c *Clock) Ask(ctx context.Context, ask func(context.Context) error, attributes ...any) (dead bool) {
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
