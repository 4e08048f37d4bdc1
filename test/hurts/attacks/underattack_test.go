package attacks

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// leaseGap is how long a node's lease may go without a renewal while the control plane is attacked, on a busy machine. It is renewed
// every few seconds, and a node that does not renew it for 40 s counts as failed.
const leaseGap = 30 * time.Second

// underAttack runs an attack on the control plane. Meanwhile node1's lease must be renewed in time and once after it, and skepd must not
// take more than grow bytes more than before.
func underAttack(t *testing.T, grow int, attack func()) {
	t.Helper()
	skepd := local.SkepdPID()
	before := memory(t, skepd, "VmRSS")
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", skepd), []byte("5"), 0); err != nil { // resets VmHWM
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	over := make(chan struct{})
	watched := make(chan error, 1)
	renewals, err := local.API.CoordinationV1().Leases("kube-node-lease").Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=node1"})
	if err != nil {
		t.Fatal(err)
	}
	defer renewals.Stop()
	go func() { watched <- renewed(renewals.ResultChan(), over) }()
	attack()
	close(over)
	if err := <-watched; err != nil {
		t.Error(err)
	}
	if local.SkepdPID() != skepd {
		t.Fatal("skepd has ended")
	}
	grown := memory(t, skepd, "VmHWM") - before
	t.Logf("skepd grew by %d MiB", grown>>20)
	if grown > grow {
		t.Errorf("skepd grew by %d MiB, more than %d", grown>>20, grow>>20)
	}
}

// renewed returns at the first renewal after the attack is over, and with an error if none came for too long.
func renewed[E any](events <-chan E, over <-chan struct{}) error {
	ended := false
	for {
		select {
		case _, open := <-events:
			if !open {
				return fmt.Errorf("the watch of node1's lease ended")
			}
			if ended {
				return nil
			}
		case <-over:
			ended, over = true, nil
		case <-time.After(leaseGap):
			return fmt.Errorf("node1's lease was not renewed for %s", leaseGap)
		}
	}
}

func memory(t *testing.T, pid int, name string) (size int) {
	t.Helper()
	for _, line := range strings.Split(read(t, fmt.Sprintf("/proc/%d/status", pid)), "\n") {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			if _, err := fmt.Sscan(rest, &size); err != nil {
				t.Fatal(err)
			}
		}
	}
	return size << 10
}
