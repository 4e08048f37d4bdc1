package endpoints

import (
	"fmt"
	"math/rand/v2"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// podEndpoint is the endpoint of the life-th pod with a name, each with another address and UID.
func podEndpoint(pod, life int, ready bool) discoveryv1.Endpoint {
	e := endpointN(pod*8+life, ready)
	e.TargetRef = &corev1.ObjectReference{Name: fmt.Sprint("p", pod), UID: types.UID(fmt.Sprint(pod, "-", life))}
	return e
}

// TestAmendIsWhatAFullPlanFinds changes some pods at random and amends the slices for them; a plan from all pods then finds nothing to do.
// The old slices are not changed: the cache holds them.
func TestAmendIsWhatAFullPlanFinds(t *testing.T) {
	other := []discoveryv1.EndpointPort{{Name: ptr.To("http"), Port: ptr.To[int32](81), Protocol: ptr.To(corev1.ProtocolTCP)}}
	type state struct {
		there, ready, otherPort bool
		life                    int
	}
	amended, writes := 0, 0
	for seed := range uint64(8) {
		random := rand.New(rand.NewPCG(seed, 7))
		l, pods := &ledger{slices: map[string]*discoveryv1.EndpointSlice{}}, make([]state, 350)
		ports := func(s state) []discoveryv1.EndpointPort {
			if s.otherPort {
				return other
			}
			return testPorts
		}
		full := func() plan {
			want := bundles{}
			for i, s := range pods {
				if s.there {
					want.add(discoveryv1.AddressTypeIPv4, ports(s), podEndpoint(i, s.life, s.ready))
				}
			}
			return makePlan(testFrame, l.list(), want)
		}
		for i := range pods {
			pods[i] = state{there: i%5 > 0, ready: true, otherPort: i%20 == 1}
		}
		l.apply(full())
		for round := range 60 {
			want := map[string][]place{}
			for range 1 + random.IntN(4) {
				i := random.IntN(len(pods))
				switch s := &pods[i]; random.IntN(6) {
				case 0:
					s.there = !s.there
				case 1:
					s.life = (s.life + 1) % 8
				case 2:
					s.otherPort = !s.otherPort
				default:
					s.ready = !s.ready
				}
				want[fmt.Sprint("p", i)] = nil
				if s := pods[i]; s.there {
					want[fmt.Sprint("p", i)] = []place{{discoveryv1.AddressTypeIPv4, ports(s), podEndpoint(i, s.life, s.ready)}}
				}
			}
			before := map[string]*discoveryv1.EndpointSlice{}
			for name, s := range l.slices {
				before[name] = s.DeepCopy()
			}
			held := l.list()
			update, ok := testFrame.amend(held, want)
			for _, s := range held {
				if !equality.Semantic.DeepEqual(s, before[s.Name]) {
					t.Fatalf("seed %d round %d: slice %s was changed in place", seed, round, s.Name)
				}
			}
			if !ok {
				l.apply(full())
				continue
			}
			amended++
			writes += l.apply(plan{update: update})
			for _, s := range l.slices {
				if len(s.Endpoints) > maxPerSlice || len(s.Endpoints) == 0 {
					t.Fatalf("seed %d round %d: slice %s has %d endpoints", seed, round, s.Name, len(s.Endpoints))
				}
			}
			if p := full(); len(p.create)+len(p.update)+len(p.delete) > 0 {
				t.Fatalf("seed %d round %d: a look at all still finds %d to create, %d to update, %d to delete", seed, round, len(p.create), len(p.update), len(p.delete))
			}
		}
	}
	if amended < 300 || writes < amended/2 {
		t.Errorf("%d rounds were amended, with %d writes: too few to prove anything", amended, writes)
	}
}
