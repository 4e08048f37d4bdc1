package agent

import (
	"errors"
	"log/slog"
	"slices"

	"github.com/skep-io/skep/dataplane/podnet"
	"github.com/skep-io/skep/dataplane/podpath"
)

// connector gives pods their interface and its programs.
type connector struct {
	network *podnet.Network
	path    *podpath.Path
}

// Attach connects a pod. Programs come last: they only let through packets of the addresses that the pod has by then.
func (c *connector) Attach(podID, netns string, limits podnet.Bandwidth) (podnet.Attachment, error) {
	a, err := c.network.Attach(podID, netns, limits)
	if err != nil {
		return a, err
	}
	return a, c.path.Attach(a.Index, slices.Clone(a.Addrs), a.PodMAC)
}

// Detach removes a pod from the network.
func (c *connector) Detach(podID string) error {
	var err error
	if a, ok := c.network.Attachments()[podID]; ok {
		err = c.path.Detach(a.Index)
	}
	return errors.Join(err, c.network.Detach(podID))
}

// Attachments are the pods that are connected.
func (c *connector) Attachments() map[string]podnet.Attachment { return c.network.Attachments() }

// adopt attaches programs to interfaces of adopted pods that have none, because an earlier agent had no such programs.
func (c *connector) adopt() {
	for pod, a := range c.network.Attachments() {
		if err := c.path.Attach(a.Index, slices.Clone(a.Addrs), a.PodMAC); err != nil {
			slog.Error("programs for a pod's packets are not attached: its packets go through the host's stack, and are not counted", "pod", pod, "interface", a.HostInterface, "err", err)
		}
	}
}
