package agent

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// handlers tell the API what this node's one way of running containers can do.
func (p *parts) handlers() []corev1.NodeRuntimeHandler {
	features := p.runtime.Features()
	return []corev1.NodeRuntimeHandler{{Features: &corev1.NodeRuntimeHandlerFeatures{
		RecursiveReadOnlyMounts: &features.RecursiveReadOnly,
		UserNamespaces:          &features.UserNamespaces,
	}}}
}

// answerWithin bounds what the node's status and health ask of containerd: that it is silent is what they are to tell.
const answerWithin = 10 * time.Second

func (p *parts) runtimeVersion(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	return p.runtime.Version(ctx)
}

// images tells the node's status what is stored here.
func (p *parts) images(ctx context.Context) ([]corev1.ContainerImage, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	stored, err := p.runtime.Images(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]corev1.ContainerImage, 0, len(stored))
	for _, i := range stored {
		out = append(out, corev1.ContainerImage{Names: []string{i.Name}, SizeBytes: i.Size})
	}
	return out, nil
}
