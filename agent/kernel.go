package agent

import (
	"context"
	"time"

	"github.com/skep-io/skep/agent/bounded"
)

// kernelWithin bounds what the agent's own loops ask of the kernel by netlink: somebody who holds its lock must not hold them.
const kernelWithin = 2 * time.Minute

// kernel asks the kernel for one loop. The zero value is ready for use.
type kernel struct{ calls bounded.Calls }

// ask runs f, and gives up waiting for it after a while; the error says for what. The next ask first waits for f to end.
func (k *kernel) ask(ctx context.Context, what string, within time.Duration, f func() error) error {
	_, err := bounded.Do(ctx, &k.calls, "", what, within, func() (struct{}, error) { return struct{}{}, f() }, nil)
	return err
}
