package agent

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/agent/logs"
	"github.com/skep-io/skep/agent/runtime"
	"github.com/skep-io/skep/backoff"
)

// containers are the connection to containerd, and to the process that writes containers' logs.
type containers struct {
	cfg     Config
	logs    *logs.Logs
	runtime *runtime.Runtime
}

func (c *containers) start(ctx context.Context, group *errgroup.Group) (err error) {
	c.logs, err = logs.New(ctx, logs.Config{
		StateDir: c.cfg.StateDir, RunDir: c.cfg.RunDir, Command: c.cfg.LogCommand, Version: c.cfg.Version,
	})
	if err != nil {
		return err
	}
	group.Go(func() error { return c.logs.Run(ctx) })
	address := c.cfg.ContainerdAddress
	if address == "" {
		daemon, err := runtime.StartContainerd(ctx, containerdConfig(c.cfg))
		if err != nil {
			return err
		}
		group.Go(func() error { <-daemon.Done(); return nil })
		address = daemon.Address()
	}
	connect := backoff.Retry{
		First: 200 * time.Millisecond, Last: 5 * time.Second, Attrs: []any{"address", address},
		Failing: "containerd does not answer; trying again", Working: "connected to containerd",
	}
	err = connect.Do(ctx, func(ctx context.Context) (err error) {
		c.runtime, err = runtime.Connect(ctx, address, runtime.Config{
			CgroupParent: c.cfg.Cgroup, StateDir: c.cfg.StateDir, RunDir: c.cfg.RunDir, Logs: c.logs,
		})
		return err
	})
	if err != nil {
		return err
	}
	group.Go(func() error { return c.runtime.Run(ctx) })
	return nil
}

func (c *containers) stop() {
	if c.runtime == nil {
		return
	}
	if err := c.runtime.Close(); err != nil {
		slog.Error("connection to containerd not closed", "err", err)
	}
}

func containerdConfig(cfg Config) runtime.DaemonConfig {
	return runtime.DaemonConfig{
		Root: filepath.Join(cfg.StateDir, "containerd"), State: filepath.Join(cfg.RunDir, "containerd"),
	}
}

// handlers describe the features of this node's only runtime handler, for the node's status.
func (c *containers) handlers() []corev1.NodeRuntimeHandler {
	features := c.runtime.Features()
	return []corev1.NodeRuntimeHandler{{Features: &corev1.NodeRuntimeHandlerFeatures{
		RecursiveReadOnlyMounts: &features.RecursiveReadOnly,
		UserNamespaces:          &features.UserNamespaces,
	}}}
}

// answerWithin bounds the node's status and health requests to containerd: they have to report that it does not
// answer.
const answerWithin = 10 * time.Second

func (c *containers) version(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	return c.runtime.Version(ctx)
}

// images are the images stored on this node, for the node's status.
func (c *containers) images(ctx context.Context) ([]corev1.ContainerImage, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	stored, err := c.runtime.Images(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]corev1.ContainerImage, 0, len(stored))
	for _, i := range stored {
		out = append(out, corev1.ContainerImage{Names: []string{i.Name}, SizeBytes: i.Size})
	}
	return out, nil
}
