package pod

import (
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/skep-io/skep/dataplane/podnet"
)

// The annotations of Kubernetes; values are bits per second.
const (
	ingressBandwidth = "kubernetes.io/ingress-bandwidth"
	egressBandwidth  = "kubernetes.io/egress-bandwidth"
)

// The range that Kubernetes accepts.
var (
	minBandwidth = resource.MustParse("1k")
	maxBandwidth = resource.MustParse("1P")
)

// bandwidth reads a pod's limits from its annotations. An invalid one is an error, as in
// Kubernetes: a pod that should be limited does not run unlimited.
func bandwidth(annotations map[string]string) (podnet.Bandwidth, error) {
	ingress, err := bitsPerSecond(annotations, ingressBandwidth)
	egress, err2 := bitsPerSecond(annotations, egressBandwidth)
	return podnet.Bandwidth{Ingress: ingress, Egress: egress}, errors.Join(err, err2)
}

func bitsPerSecond(annotations map[string]string, name string) (uint64, error) {
	text, ok := annotations[name]
	if !ok {
		return 0, nil
	}
	q, err := resource.ParseQuantity(text)
	switch {
	case err != nil:
		return 0, fmt.Errorf("annotation %s %q is not a quantity of bits per second, such as 10M: %w", name, text, err)
	case q.Cmp(minBandwidth) < 0:
		return 0, fmt.Errorf("annotation %s %s is unreasonably small (< 1kbit)", name, text)
	case q.Cmp(maxBandwidth) > 0:
		return 0, fmt.Errorf("annotation %s %s is unreasonably large (> 1Pbit)", name, text)
	}
	return uint64(q.Value()), nil
}
