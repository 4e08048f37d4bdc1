package pod

import (
	"context"
	"errors"
	"time"

	"github.com/skep-io/skep/agent/bounded"
	"github.com/skep-io/skep/agent/runtime"
	"github.com/skep-io/skep/dataplane/podnet"
)

// defaultPatience is how long a step of a pod's start or end may take before it is given up,
// reported, and tried again: as the kubelet's --runtime-request-timeout.
const defaultPatience = 2 * time.Minute

// Calls into the kernel for a pod may hang: netlink behind a lock, a mount whose server does not
// answer. Steps of one kind and pod run one after the other, so that a step that was given up is
// undone only after it has returned.

func (p *Pods) attach(ctx context.Context, uid, netns string, limits podnet.Bandwidth) (podnet.Attachment, error) {
	return bounded.Do(ctx, &p.calls, "network of "+uid, "the pod's network (netlink)", p.cfg.Patience, func() (podnet.Attachment, error) {
		return p.cfg.Network.Attach(uid, netns, limits)
	}, nil)
}

// madeSandbox is a sandbox, and whether it was made just now.
type madeSandbox struct {
	runtime.Sandbox
	fresh bool
}

func (p *Pods) createSandbox(ctx context.Context, config runtime.SandboxConfig) (madeSandbox, error) {
	return bounded.Do(ctx, &p.calls, "sandbox of "+config.PodUID, "the pod's namespaces and cgroup", p.cfg.Patience, func() (made madeSandbox, err error) {
		made.Sandbox, made.fresh, err = p.cfg.Runtime.CreateSandbox(config)
		return made, err
	}, nil)
}

func (p *Pods) setSysctls(ctx context.Context, s runtime.Sandbox, list []runtime.Sysctl) error {
	if len(list) == 0 {
		return nil
	}
	return bounded.Run(ctx, &p.calls, "sandbox of "+s.PodUID, "the pod's kernel parameters", p.cfg.Patience, func() error {
		return p.cfg.Runtime.SetSysctls(s, list)
	})
}

// release releases a pod's network, namespaces and volumes, one after the other.
func (p *Pods) release(ctx context.Context, uid string) error {
	return errors.Join(
		bounded.Run(ctx, &p.calls, "network of "+uid, "the end of the pod's network (netlink)", p.cfg.Patience, func() error {
			return p.cfg.Network.Detach(uid)
		}),
		bounded.Run(ctx, &p.calls, "sandbox of "+uid, "the end of the pod's namespaces and cgroup", p.cfg.Patience, func() error {
			return p.cfg.Runtime.RemoveSandbox(uid)
		}),
		bounded.Run(ctx, &p.calls, "volumes of "+uid, "the pod's volumes to be unmounted", p.cfg.Patience, func() error {
			return errors.Join(p.volumes.TearDown(uid), p.cfg.Runtime.DropFiles(uid))
		}),
	)
}

// forget removes a pod's records.
func (p *Pods) forget(ctx context.Context, uid string) error {
	return bounded.Run(ctx, &p.calls, "volumes of "+uid, "the pod's folder to be removed", p.cfg.Patience, func() error {
		return p.cfg.Runtime.ForgetPod(uid)
	})
}
