package kinds

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/scheme"
	"github.com/skep-io/skep/controlplane/storage"
)

// An object that was stored in another version of a kind is read in the version that is stored now.
func TestStoredInAnotherVersion(t *testing.T) {
	data, err := scheme.Codec.Encode(&eventsv1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "x"}, Note: "note"})
	if err != nil {
		t.Fatal(err)
	}
	read, err := Events.Decode(storage.KeyValue{Key: Events.Key("ns", "x"), Value: data, ModRevision: 7})
	if err != nil {
		t.Fatal(err)
	}
	event, ok := read.Value().(*corev1.Event)
	if !ok || event.Message != "note" || event.ResourceVersion != "7" || event.APIVersion != "v1" {
		t.Errorf("read as %#v", read.Value())
	}
}
