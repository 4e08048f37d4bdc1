package server

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// What a failed request is is found in the log; what its command is given is not, since that may be a secret.
func TestFailedRequestsAreNamedInTheLog(t *testing.T) {
	var out bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&out, nil)))
	defer slog.SetDefault(before)
	r := httptest.NewRequest(http.MethodPost, "/exec/default/web/app?command=login&command=--password=hunter2", nil)
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request, error){"text": fail, "Status": failStream} {
		out.Reset()
		w := httptest.NewRecorder()
		answer(w, r, errors.New("containerd is away"))
		if w.Code != http.StatusInternalServerError {
			t.Errorf("%s: code %d", name, w.Code)
		}
		for _, part := range []string{"method=POST", "path=/exec/default/web/app ", "client=" + r.RemoteAddr, `err="containerd is away"`} {
			if !strings.Contains(out.String(), part) {
				t.Errorf("%s: %q is not in the log: %s", name, part, &out)
			}
		}
		if strings.Contains(out.String(), "hunter2") {
			t.Errorf("%s: the log has what the command was given: %s", name, &out)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	out.Reset()
	fail(httptest.NewRecorder(), r.WithContext(ctx), ctx.Err())
	fail(httptest.NewRecorder(), r, &requestError{"follow: no"})
	if out.Len() > 0 {
		t.Errorf("what a client did is logged: %s", &out)
	}
}
