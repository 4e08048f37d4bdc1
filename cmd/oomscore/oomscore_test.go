package oomscore

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestLower(t *testing.T) {
	const file = "/proc/self/oom_score_adj"
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := "-999"
	if may, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, unix.CAP_SYS_RESOURCE, 0, 0, 0); err != nil || may != 1 {
		want = strings.TrimSpace(string(before)) // the kernel refuses it, and the program goes on
	}
	Lower()
	after, err := os.ReadFile(file)
	if got := strings.TrimSpace(string(after)); err != nil || got != want {
		t.Errorf("score %q, %v; want %s", got, err, want)
	}
	_ = os.WriteFile(file, before, 0)
}
