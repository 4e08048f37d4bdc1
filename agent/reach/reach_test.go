package reach

import (
	"context"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/skep-io/skep/witness"
)

func nodeObject(name string, addrs ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, addr := range addrs {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: addr})
	}
	return n
}

// A node's key is at its Node object while it watches, and no longer than that.
func TestTheKeyIsPublished(t *testing.T) {
	client := fake.NewClientset(nodeObject("me"), nodeObject("other"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	factory := informers.NewSharedInformerFactory(client, 0)
	lister := factory.Core().V1().Nodes().Lister()
	factory.Core().V1().Nodes().Informer()
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	await := func(want string) {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
			n, err := client.CoreV1().Nodes().Get(ctx, "me", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			key, has := n.Annotations[witness.KeyAnnotation]
			if key == want && has == (want != "") {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("the key is %q, want %q", key, want)
			}
		}
	}
	publishing, stop := context.WithCancel(ctx)
	done := make(chan error)
	go func() { done <- publish(publishing, client, lister, "me", "KEY") }()
	await("KEY")
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	go func() { done <- Withdraw(ctx, factory, client, "me") }()
	await("")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// What is probed is an address of a family that this node has; heartbeats change nothing.
func TestMembers(t *testing.T) {
	r := &Reach{cfg: Config{Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}, wake: make(chan struct{}, 1)}
	if m := r.member(nodeObject("a", "2001:db8::2", "192.0.2.2")); m.addr != netip.MustParseAddr("192.0.2.2") {
		t.Errorf("address %s", m.addr)
	}
	if m := r.member(nodeObject("a", "2001:db8::2")); m.addr.IsValid() {
		t.Errorf("address %s of a family that this node has not", m.addr)
	}
	before, beat := nodeObject("a", "192.0.2.2"), nodeObject("a", "192.0.2.2")
	beat.Status.Images = []corev1.ContainerImage{{}}
	beat.ResourceVersion = "2"
	if r.nodeUpdated(before, beat); len(r.wake) > 0 {
		t.Error("a heartbeat is a change")
	}
	beat.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown}}
	if r.nodeUpdated(before, beat); len(r.wake) == 0 {
		t.Error("a node whose lease has expired is no change")
	}
}
