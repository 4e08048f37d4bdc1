package backoff

import (
	"context"
	"log/slog"
	"runtime"
	"time"
)

// Retry says how an operation is tried until it succeeds. The zero Level is slog.LevelInfo: failures are logged as warnings
// unless it is higher than that.
type Retry struct {
	First, Last time.Duration // the first wait between attempts, and the longest
	// Failing is the log message of the first failure, and of a different error a minute or more after the last logged one.
	// The attempts in between are not logged.
	Failing string
	Working string // the log message of a success after a failure; "" for none
	Attrs   []any  // of both messages
	Level   slog.Level
	Final   func(error) bool // errors that another attempt would not change; nil for none
}

// sameProblem is how long alternating errors count as one problem, which is logged once.
const sameProblem = time.Minute

// Do calls try until it returns nil or a final error, or ctx has ended. It returns try's last error, or ctx's if that ends
// between attempts.
func (r Retry) Do(ctx context.Context, try func(context.Context) error) error {
	wait := New(r.First, r.Last)
	var began, loggedAt time.Time
	var logged string
	for {
		err := try(ctx)
		switch {
		case err == nil:
			if wait.Failing() && r.Working != "" {
				r.log(ctx, slog.LevelInfo, r.Working, "after", time.Since(began).Round(time.Millisecond))
			}
			return nil
		case ctx.Err() != nil || r.Final != nil && r.Final(err):
			return err
		case !wait.Failing():
			began = time.Now()
			fallthrough
		case err.Error() != logged && time.Since(loggedAt) >= sameProblem:
			logged, loggedAt = err.Error(), time.Now()
			r.log(ctx, max(r.Level, slog.LevelWarn), r.Failing, "err", err)
		}
		if err := wait.Wait(ctx); err != nil {
			return err
		}
	}
}

// log sets Do's caller as the record's source: the component of a line is the package that tries.
func (r Retry) log(ctx context.Context, level slog.Level, message string, more ...any) {
	logger := slog.Default()
	if !logger.Enabled(ctx, level) {
		return
	}
	var pc [1]uintptr
	runtime.Callers(3, pc[:]) // past Callers, log and Do
	record := slog.NewRecord(time.Now(), level, message, pc[0])
	record.Add(r.Attrs...)
	record.Add(more...)
	_ = logger.Handler().Handle(ctx, record) // as slog itself
}
