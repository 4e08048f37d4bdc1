package agent

import (
	"context"
	"time"

	"github.com/skep-io/skep/agent/bounded"
)

// kernelWithin bounds netlink requests of the agent's own loops: a process that holds the kernel's lock must not block them.
const kernelWithin = 2 * time.Minute

// kernel runs the calls of one loop into the kernel. The zero value is ready for use.
type kernel struct{ calls bounded.Calls }

// ask runs f, and stops waiting for it after within; the error then names what. The next ask first waits for f to end.
func (k *kernel) ask(ctx context.Context, what string, within time.Duration, f func() error) error {
	_, err := bounded.Do(ctx, &k.calls, "", what, within, func() (struct{}, error) { return struct{}{}, f() }, nil)
	return err
}
