package runtime

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// callTimeout bounds a call to containerd whose caller sets no bound of its
// own, as the kubelet's --runtime-request-timeout does.
const callTimeout = 2 * time.Minute

// bounds are those of calls that take as long as the data they move; 0: none, for calls that wait
// for a process on purpose.
var bounds = map[string]time.Duration{
	"/containerd.services.tasks.v1.Tasks/Wait":           0,
	"/containerd.services.diff.v1.Diff/Apply":            30 * time.Minute,
	"/containerd.services.images.v1.Images/Delete":       10 * time.Minute, // collects garbage
	"/containerd.services.leases.v1.Leases/Delete":       10 * time.Minute,
	"/containerd.services.snapshots.v1.Snapshots/Remove": 10 * time.Minute,
}

// boundCall gives every call to containerd a time limit, and an error that names the call:
// containerd that is stopped, or whose shim or disk hangs, accepts calls and never answers.
func boundCall(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	bound, special := bounds[method]
	switch {
	case !special:
		bound = callTimeout
	case bound == 0:
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	began := time.Now()
	bounded, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	err := invoke(bounded, method, req, reply, cc, opts...)
	if err != nil && status.Code(err) == codes.DeadlineExceeded && !errors.Is(ctx.Err(), context.Canceled) {
		return status.Error(codes.DeadlineExceeded, fmt.Sprintf("containerd has not answered %s for %v", method, time.Since(began).Round(time.Millisecond)))
	}
	return err
}
