// Package oomscore makes Skep's own programs the last that the kernel ends when memory is short.
package oomscore

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
)

// Own is kubelet's score of itself. The log writer inherits it, containerd is told the same, its shims are one above, and
// containers have theirs (agent/pod).
const Own = -999

// Lower lowers this process' score. Without the agent a node's pods are nobody's, and skepd on a host that runs pods is the
// largest process there. It is done before capabilities are given up; where a process may not, it says so and goes on.
func Lower() {
	const file = "/proc/self/oom_score_adj"
	want := fmt.Sprint(Own)
	if have, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(have)) == want {
		return // by systemd's OOMScoreAdjust
	}
	if err := os.WriteFile(file, []byte(want), 0); err != nil {
		slog.Warn("the out-of-memory killer may kill this process: its score is not lowered", "score", Own, "err", err)
	}
}
