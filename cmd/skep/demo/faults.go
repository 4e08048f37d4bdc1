package demo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// killContainer is point 3.
func (d *demo) killContainer(ctx context.Context) error {
	clientNode, victim, err := d.choose()
	if err != nil {
		return err
	}
	pid, err := d.containerPID(victim)
	if err != nil {
		return err
	}
	traffic, err := d.startTraffic(ctx)
	if err != nil {
		return err
	}
	restarts := victim.Status.ContainerStatuses[0].RestartCount
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	watches, err := d.watchMaps(watching, victim.Status.PodIP)
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		return err
	}
	d.say("kill -9 of process %d: the container of %s on %s", pid, victim.Name, victim.Spec.NodeName)
	left, err := watches.left(patience)
	if err != nil {
		return err
	}
	d.say("out of the service maps of %s (its host) after %s, of %s (the client's) after %s",
		victim.Spec.NodeName, span(left[victim.Spec.NodeName].Sub(begin)), clientNode, span(left[clientNode].Sub(begin)))
	if err := d.view.await(ctx, patience, "the container to be back", func() (bool, string) {
		for _, pod := range d.view.ready("app=echo") {
			if pod.UID == victim.UID && pod.Status.ContainerStatuses[0].RestartCount > restarts {
				return true, ""
			}
		}
		return false, d.view.describe("app=echo")
	}); err != nil {
		return err
	}
	d.say("the pod is back and ready after %s", since(begin))
	if err := d.awaitBackends(ctx, d.view.ready("app=echo")); err != nil {
		return err
	}
	d.say("and in the maps again after %s", since(begin))
	return d.judge(traffic, left[clientNode])
}

// judge ends the traffic and returns an error if a connection failed that was
// begun after the client's host had removed the backend.
func (d *demo) judge(traffic *traffic, changed time.Time) error {
	total, early, late, err := traffic.stop(changed)
	if err != nil {
		return err
	}
	d.say("meanwhile, from the client's pod: %s; %d of them begun before its maps changed, %d after", total, len(early), len(late))
	if len(late) > 0 {
		return fmt.Errorf("%d connections failed after the backend had left the maps, the first %s after it", len(late), span(late[0].Sub(changed)))
	}
	return nil
}

// cutHost is point 4.
func (d *demo) cutHost(ctx context.Context) error {
	clientNode, victim, err := d.choose()
	if err != nil {
		return err
	}
	host, err := d.cluster.Node(victim.Spec.NodeName)
	if err != nil {
		return err
	}
	traffic, err := d.startTraffic(ctx)
	if err != nil {
		return err
	}
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	watches, err := d.watchMaps(watching, victim.Status.PodIP)
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := host.Cut(); err != nil {
		return err
	}
	d.say("%s is cut off; it runs %s", host.Name, victim.Name)
	left, healed := time.Time{}, false
	defer func() {
		if !healed {
			_ = host.Heal()
		}
	}()
	if left, err = watches.leftOn(clientNode, patience); err != nil {
		return err
	}
	d.say("out of the service maps of %s (the client's) after %s", clientNode, span(left.Sub(begin)))
	if err := d.view.await(ctx, patience, "its pods to be replaced", func() (bool, string) {
		elsewhere := 0
		for _, pod := range d.view.ready("app=echo") {
			if pod.Spec.NodeName != host.Name {
				elsewhere++
			}
		}
		return elsewhere == replicas, d.view.describe("app=echo")
	}); err != nil {
		return err
	}
	d.say("%d pods are ready on the other hosts after %s", replicas, since(begin))
	begin = time.Now()
	if err := host.Heal(); err != nil {
		return err
	}
	healed = true
	if err := d.view.await(ctx, patience, host.Name+" to be whole again", func() (bool, string) {
		settled := len(d.view.pods("app=echo")) == replicas && len(d.view.ready("app=echo")) == replicas
		return settled && d.view.nodeReady(host.Name), d.view.describe("app=echo")
	}); err != nil {
		return err
	}
	d.say("%s is healed: ready, and its old pods gone, after %s", host.Name, since(begin))
	return d.judge(traffic, left)
}

// choose picks an echo pod on another host than the client's, so that a host's
// fault does not affect the client.
func (d *demo) choose() (clientNode string, victim *corev1.Pod, err error) {
	clients := d.view.ready("app=client")
	if len(clients) == 0 {
		return "", nil, errors.New("the client pod is not ready")
	}
	clientNode = clients[0].Spec.NodeName
	for _, pod := range d.view.ready("app=echo") {
		if pod.Spec.NodeName != clientNode {
			return clientNode, pod, nil
		}
	}
	return "", nil, fmt.Errorf("no echo pod on another host than the client's, %s: the demo needs two hosts or more", clientNode)
}

// containerPID finds the container's first process.
func (d *demo) containerPID(pod *corev1.Pod) (int, error) {
	if len(pod.Status.ContainerStatuses) == 0 {
		return 0, fmt.Errorf("%s has no container status", pod.Name)
	}
	_, id, _ := strings.Cut(pod.Status.ContainerStatuses[0].ContainerID, "://")
	node, err := d.cluster.Node(pod.Spec.NodeName)
	if err != nil {
		return 0, err
	}
	return node.ContainerProcess(id)
}
