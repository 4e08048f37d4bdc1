package etcd

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// newLogger is a logger for etcd that writes warnings and worse to slog.
func newLogger(h *fatalHook) *zap.Logger {
	return zap.New(slogCore{}, zap.WithFatalHook(h), zap.WithPanicHook(h))
}

// fatalHook is called where etcd would end the process. While etcd starts, it panics, and
// start returns an error; later, on any goroutine, the process ends with an error that
// says why.
type fatalHook struct {
	dir     string
	started atomic.Bool
}

func (h *fatalHook) OnWrite(entry *zapcore.CheckedEntry, fields []zapcore.Field) {
	message := entry.Message
	for _, f := range fields {
		if err, ok := f.Interface.(error); ok && f.Type == zapcore.ErrorType {
			message += ": " + explain(h.dir, err).Error()
		}
	}
	if h.started.Load() {
		exitOnFatal(fatal{message})
	}
	panic(fatal{message})
}

// slogCore writes zap's entries to slog.
type slogCore struct{ fields []zapcore.Field }

// expected are warnings of etcd about what is intended here.
var expected = map[string]bool{
	"Running http and grpc server on single port. This is not recommended for production.": true,
	"simple token is not cryptographically signed":                                         true,
	// A server on an empty directory may look for the schema before the first write has made it, and looks again later.
	"Failed to detect schema version":  true,
	"failed to update storage version": true,
}

func (slogCore) Enabled(level zapcore.Level) bool { return level >= zapcore.WarnLevel }

func (c slogCore) With(fields []zapcore.Field) zapcore.Core {
	return slogCore{append(c.fields[:len(c.fields):len(c.fields)], fields...)}
}

func (c slogCore) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !c.Enabled(entry.Level) {
		return checked
	}
	return checked.AddCore(entry, c)
}

func (c slogCore) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	level := slog.LevelError
	if entry.Level == zapcore.WarnLevel {
		level = slog.LevelWarn
	}
	ctx := context.Background()
	if expected[entry.Message] || !slog.Default().Enabled(ctx, level) {
		return nil
	}
	encoder := zapcore.NewMapObjectEncoder()
	for _, f := range c.fields {
		f.AddTo(encoder)
	}
	for _, f := range fields {
		f.AddTo(encoder)
	}
	record := slog.NewRecord(time.Now(), level, "etcd: "+entry.Message, 0)
	for key, value := range encoder.Fields {
		record.AddAttrs(slog.Any(key, value))
	}
	return slog.Default().Handler().Handle(ctx, record)
}

func (slogCore) Sync() error { return nil }
