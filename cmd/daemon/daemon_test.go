package daemon

import (
	"bytes"
	"log/slog"
	"net"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	Notify("READY=1")
	buf := make([]byte, 64)
	n, err := l.Read(buf)
	if err != nil || string(buf[:n]) != "READY=1" {
		t.Errorf("systemd gets %q, %v", buf[:n], err)
	}
}

func TestLinesNameTheirComponent(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(componentHandler{slog.NewTextHandler(&out, nil)})
	log.Info("one", "key", "value")
	log.With("pod", "a/b").Info("two")
	func() { log.Info("three") }()
	other := slog.NewRecord(time.Now(), slog.LevelInfo, "from a package of Go's own", reflect.ValueOf(strings.ToUpper).Pointer()+1)
	if err := log.Handler().Handle(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	for i, want := range []string{"msg=one component=cmd/daemon key=value", "component=cmd/daemon", "msg=three component=cmd/daemon", "from a package"} {
		if !strings.Contains(lines[i], want) {
			t.Errorf("%q, want %q in it", lines[i], want)
		}
	}
	if strings.Count(out.String(), "component=") != 3 {
		t.Errorf("a line of another module has a component of ours: %s", lines[3])
	}
}

func TestUnknownLevelIsRefused(t *testing.T) {
	if err := SetUpLog("loud"); err == nil || !strings.Contains(err.Error(), `--log-level "loud" is none of debug, info, warn, error`) {
		t.Error(err)
	}
}
