package watchcache

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// The last state of an object, under the revision of its deletion, is another value: the first is shared.
func TestAtLeavesAnUnstructuredValueAlone(t *testing.T) {
	value := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": "x", "resourceVersion": "7"}}}
	last := NewObject("k", 7, value).at(9)
	if last.Value().GetResourceVersion() != "9" || last.Revision != 9 || value.GetResourceVersion() != "7" {
		t.Errorf("%s after the change, %s before it", last.Value().GetResourceVersion(), value.GetResourceVersion())
	}
}
