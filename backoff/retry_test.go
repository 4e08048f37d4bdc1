package backoff

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// logged collects the default log for a test.
func logged(t *testing.T) *bytes.Buffer {
	var out bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{AddSource: true, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})))
	t.Cleanup(func() { slog.SetDefault(before) })
	return &out
}

func TestRetryLogsTheFirstFailureAndThatItWorksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := logged(t)
		tries := 0
		retry := Retry{First: time.Second, Last: 2 * time.Second, Failing: "the door is shut; trying again", Working: "the door is open", Attrs: []any{"door", 7}}
		err := retry.Do(t.Context(), func(context.Context) error {
			if tries++; tries <= 40 {
				return fmt.Errorf("no answer from port %d", 1000+tries)
			}
			return nil
		})
		if err != nil || tries != 41 {
			t.Errorf("%v after %d tries", err, tries)
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(lines) != 3 { // one more after a minute, since the error is another
			t.Fatalf("logged\n%s", out)
		}
		for i, want := range []string{`level=WARN .*shut; trying again" door=7 err="no answer from port 1001"`, `level=WARN .*shut`, `level=INFO .*open" door=7 after=`} {
			for _, part := range append(strings.Split(want, " .*"), "retry_test.go") { // the source is who tries
				if !strings.Contains(lines[i], part) {
					t.Errorf("line %d is %s, want %s", i, lines[i], part)
				}
			}
		}
	})
}

func TestWhatWorksAtOnceLogsNothing(t *testing.T) {
	out := logged(t)
	if err := (Retry{First: time.Hour, Last: time.Hour, Working: "works"}).Do(t.Context(), func(context.Context) error { return nil }); err != nil || out.Len() > 0 {
		t.Errorf("%v, logged %s", err, out)
	}
}

func TestRetryEndsWithAFinalErrorOrItsContext(t *testing.T) {
	refused := errors.New("refused")
	retry := Retry{First: time.Nanosecond, Last: time.Nanosecond, Final: func(err error) bool { return errors.Is(err, refused) }}
	tries := 0
	if err := retry.Do(t.Context(), func(context.Context) error {
		if tries++; tries < 3 {
			return errors.New("no answer")
		}
		return refused
	}); err != refused || tries != 3 {
		t.Errorf("%v after %d tries, want %v after 3", err, tries, refused)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := retry.Do(ctx, func(context.Context) error { cancel(); return errors.New("cut off") }); err == nil || err.Error() != "cut off" {
		t.Errorf("%v, want what the attempt says", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	retry.First = time.Hour
	time.AfterFunc(time.Millisecond, cancel)
	if err := retry.Do(ctx, func(context.Context) error { return errors.New("no answer") }); err != context.Canceled {
		t.Errorf("%v, want %v", err, context.Canceled)
	}
}
