package demo

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/cmd/skep/cluster"
	"github.com/skep-io/skep/dataplane/service"
)

const (
	// clientService is the service port that the client connects to.
	clientService = namespace + "/echo:tcp"
	pinDir        = "/sys/fs/bpf/skep"
	// mapInterval is how often the kernel's maps are read while a change is
	// timed, and so the largest error of the printed times.
	mapInterval = time.Millisecond
)

// backends reads which addresses get new connections to the echo service, from
// the maps that the kernel itself uses on that host.
func (d *demo) backends(pins string) ([]string, error) {
	dump, err := service.DumpPinned(pins)
	if err != nil {
		return nil, err
	}
	var addrs []string
	for _, backend := range dump.Backends {
		if backend.Service == clientService && backend.State == "active" {
			addrs = append(addrs, backend.Address.Addr().Unmap().String())
		}
	}
	sort.Strings(addrs)
	return addrs, nil
}

// awaitBackends returns when the maps of every host hold exactly these pods.
func (d *demo) awaitBackends(ctx context.Context, pods []*corev1.Pod) error {
	var want []string
	for _, pod := range pods {
		want = append(want, pod.Status.PodIP)
	}
	sort.Strings(want)
	nodes, err := d.cluster.Nodes()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, node := range nodes {
		if err := d.awaitBackendsOn(ctx, node, want); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) awaitBackendsOn(ctx context.Context, node *cluster.Node, want []string) error {
	pins, err := node.HostPath(pinDir)
	if err != nil {
		return err
	}
	ticker := time.NewTicker(mapInterval)
	defer ticker.Stop()
	for {
		have, err := d.backends(pins)
		if err != nil {
			return fmt.Errorf("%s: %w", node.Name, err)
		}
		if slices.Equal(have, want) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("after %s the maps of %s have the backends [%s] for %s, want [%s]", patience,
				node.Name, strings.Join(have, " "), clientService, strings.Join(want, " "))
		case <-ticker.C:
		}
	}
}

// mapWatch times when an address is removed from the maps of each host.
type mapWatch struct {
	address string
	gone    map[string]chan time.Time
	failed  chan error
}

// watchMaps begins to read the maps of every running host. It must begin before
// the fault, so that the first reading still has the address.
func (d *demo) watchMaps(ctx context.Context, address string) (*mapWatch, error) {
	nodes, err := d.cluster.Nodes()
	if err != nil {
		return nil, err
	}
	w := &mapWatch{address: address, gone: map[string]chan time.Time{}, failed: make(chan error, len(nodes))}
	for _, node := range nodes {
		pins, err := node.HostPath(pinDir)
		if err != nil {
			return nil, err
		}
		have, err := d.backends(pins)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", node.Name, err)
		}
		if !slices.Contains(have, address) {
			return nil, fmt.Errorf("%s: the maps have no backend %s for %s, only [%s]", node.Name, address, clientService, strings.Join(have, " "))
		}
		gone := make(chan time.Time, 1)
		w.gone[node.Name] = gone
		go func() {
			ticker := time.NewTicker(mapInterval)
			defer ticker.Stop()
			for {
				have, err := d.backends(pins)
				if err != nil {
					w.failed <- fmt.Errorf("%s: %w", node.Name, err)
					return
				}
				if !slices.Contains(have, address) {
					gone <- time.Now()
					return
				}
				select {
				case <-ctx.Done():
					return
				case <-ticker.C:
				}
			}
		}()
	}
	return w, nil
}

// leftOn waits until the host's maps no longer have the address.
func (w *mapWatch) leftOn(node string, limit time.Duration) (time.Time, error) {
	select {
	case at := <-w.gone[node]:
		return at, nil
	case err := <-w.failed:
		return time.Time{}, err
	case <-time.After(limit):
		return time.Time{}, fmt.Errorf("%s is still in the maps of %s after %s", w.address, node, limit)
	}
}

// left waits for every host.
func (w *mapWatch) left(limit time.Duration) (map[string]time.Time, error) {
	times := map[string]time.Time{}
	for node := range w.gone {
		at, err := w.leftOn(node, limit)
		if err != nil {
			return nil, err
		}
		times[node] = at
	}
	return times, nil
}
