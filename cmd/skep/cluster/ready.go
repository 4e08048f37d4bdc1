package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// nodeReadyTimeout covers a containerd's first start on a busy machine.
const nodeReadyTimeout = 90 * time.Second

// awaitNodes returns when every host is Ready in the API. A host that was
// started just now must have reported that since then: a condition from before its
// restart does not count.
func (c *Cluster) awaitNodes(ctx context.Context, begin time.Time, started []string) error {
	ctx, cancel := context.WithTimeout(ctx, nodeReadyTimeout)
	defer cancel()
	st, err := c.load()
	if err != nil {
		return err
	}
	waiting := map[string]string{} // node -> why it is not ready
	for _, name := range st.nodeNames() {
		if n := st.Nodes[name]; n.Cut {
			c.say("%s is cut off: not waited for (skep node heal %s)", name, name)
		} else if c.cgroups.frozen(nodeCgroup(c.Name, name)) {
			c.say("%s is paused: not waited for (skep node resume %s)", name, name)
		} else {
			waiting[name] = "it has not registered"
		}
	}
	client, err := c.Client()
	if err != nil {
		return err
	}
	for len(waiting) > 0 {
		list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return c.nodesNotReady(waiting, err)
		}
		check := func(node *corev1.Node) {
			if _, ok := waiting[node.Name]; !ok {
				return
			}
			fresh := begin
			if !slices.Contains(started, node.Name) {
				fresh = time.Time{}
			}
			if why := notReady(node, fresh); why != "" {
				waiting[node.Name] = why
				return
			}
			delete(waiting, node.Name)
			c.say("%-26s%6.1fs  %s", node.Name+" ready", time.Since(begin).Seconds(), commas(st.addrs(node.Name)))
		}
		for i := range list.Items {
			check(&list.Items[i])
		}
		if len(waiting) == 0 {
			break
		}
		events, err := client.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
		if err != nil {
			return c.nodesNotReady(waiting, err)
		}
		for event := range events.ResultChan() {
			if node, ok := event.Object.(*corev1.Node); ok && event.Type != watch.Deleted {
				check(node)
			}
			if len(waiting) == 0 {
				break
			}
		}
		events.Stop()
		if err := ctx.Err(); err != nil {
			return c.nodesNotReady(waiting, err)
		}
	}
	return nil
}

// notReady says why a node is not ready, "" if it is. The condition's heartbeat
// must be no older than since (whole seconds, as the API keeps them).
func notReady(node *corev1.Node, since time.Time) string {
	for _, condition := range node.Status.Conditions {
		if condition.Type != corev1.NodeReady {
			continue
		}
		if condition.Status != corev1.ConditionTrue {
			return fmt.Sprintf("%s: %s", condition.Reason, condition.Message)
		}
		if condition.LastHeartbeatTime.Time.Before(since.Truncate(time.Second)) {
			return "its agent has not reported since it was started"
		}
		return ""
	}
	return "it has not reported its condition"
}

func (c *Cluster) nodesNotReady(waiting map[string]string, cause error) error {
	var text strings.Builder
	for name, why := range waiting {
		fmt.Fprintf(&text, "\n  %s: %s; the end of %s:\n%s", name, why, c.agentLog(name), tail(c.agentLog(name), 6))
	}
	return fmt.Errorf("not every host became ready (%w):%s", cause, text.String())
}
