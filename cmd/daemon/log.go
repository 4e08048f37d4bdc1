// Package daemon is what skepd and skep-agent have in common as daemons: their log, and their notifications to systemd.
package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"

	"k8s.io/klog/v2"
)

// SetUpLog makes the process log to standard error from a level on: debug, info, warn or error. A line names the package of ours that it
// comes from, as component=agent/pod. Log lines of Kubernetes' packages go there, too.
func SetUpLog(level string) error {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return fmt.Errorf("--log-level %q is none of debug, info, warn, error", level)
	}
	logger := slog.New(componentHandler{slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l})})
	slog.SetDefault(logger)
	klog.SetSlogLogger(logger)
	return nil
}

// componentHandler adds the component to records.
type componentHandler struct{ slog.Handler }

// Handle implements slog.Handler.
func (h componentHandler) Handle(ctx context.Context, r slog.Record) error {
	component := componentOf(r.PC)
	if component == "" {
		return h.Handler.Handle(ctx, r)
	}
	record := slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
	record.AddAttrs(slog.String("component", component))
	r.Attrs(func(a slog.Attr) bool {
		record.AddAttrs(a)
		return true
	})
	return h.Handler.Handle(ctx, record)
}

// WithAttrs implements slog.Handler.
func (h componentHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return componentHandler{h.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (h componentHandler) WithGroup(name string) slog.Handler {
	return componentHandler{h.Handler.WithGroup(name)}
}

const module = "github.com/skep-io/skep/"

// componentOf is the path in our module of the package that a program counter is in, "" if it is in another's.
func componentOf(pc uintptr) string {
	if pc == 0 {
		return ""
	}
	frame, _ := runtime.CallersFrames([]uintptr{pc}).Next()
	name, ours := strings.CutPrefix(frame.Function, module)
	if !ours {
		return ""
	}
	last := strings.LastIndex(name, "/") + 1 // dots are in the names of functions, and in none of our folders
	end, _, _ := strings.Cut(name[last:], ".")
	return name[:last] + end
}
