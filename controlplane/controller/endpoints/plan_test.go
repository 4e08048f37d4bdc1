package endpoints

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// ledger applies plans as the store would.
type ledger struct {
	slices map[string]*discoveryv1.EndpointSlice
	made   int
}

func (l *ledger) list() (all []*discoveryv1.EndpointSlice) {
	for _, s := range l.slices {
		all = append(all, s)
	}
	return all
}

func (l *ledger) apply(p plan) (writes int) {
	for _, s := range p.update {
		l.slices[s.Name] = s
	}
	for _, s := range p.create {
		l.made++
		s.Name = fmt.Sprintf("%s%d", s.GenerateName, l.made)
		s.CreationTimestamp = metav1.NewTime(time.Unix(int64(l.made), 0))
		l.slices[s.Name] = s
	}
	for _, s := range p.delete {
		delete(l.slices, s.Name)
	}
	return len(p.update) + len(p.create) + len(p.delete)
}

func endpointN(i int, ready bool) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{
		Addresses:  []string{fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)},
		Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(ready)},
		TargetRef:  &corev1.ObjectReference{UID: types.UID(fmt.Sprint(i))},
	}
}

var (
	testFrame = frame{generateName: "web-", namespace: "default", labels: map[string]string{"a": "b"}, owner: metav1.OwnerReference{UID: "u", Controller: ptr.To(true)}, perSlice: maxPerSlice}
	testPorts = []discoveryv1.EndpointPort{{Name: ptr.To("http"), Port: ptr.To[int32](80), Protocol: ptr.To(corev1.ProtocolTCP)}}
)

func wantedOf(set map[int]bool) bundles {
	want := bundles{}
	for i, ready := range set {
		want.add(discoveryv1.AddressTypeIPv4, testPorts, endpointN(i, ready))
	}
	if len(set) == 0 {
		want.add(discoveryv1.AddressTypeIPv4, nil)
	}
	return want
}

// Over random changes: the slices hold exactly what is wanted, none is over full,
// doing nothing costs nothing, and one change of one endpoint costs one write.
func TestPlanProperties(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 2))
		l, set := &ledger{slices: map[string]*discoveryv1.EndpointSlice{}}, map[int]bool{}
		for round := range 40 {
			for range rng.IntN(120) {
				i := rng.IntN(400)
				switch rng.IntN(3) {
				case 0:
					delete(set, i)
				default:
					set[i] = rng.IntN(4) > 0
				}
			}
			l.apply(makePlan(testFrame, l.list(), wantedOf(set)))
			l.check(t, set)
			if n := l.apply(makePlan(testFrame, l.list(), wantedOf(set))); n != 0 {
				t.Fatalf("seed %d round %d: %d writes though nothing changed", seed, round, n)
			}
			i := rng.IntN(400)
			if _, ok := set[i]; ok {
				set[i] = !set[i]
			} else {
				set[i] = true
			}
			if n := l.apply(makePlan(testFrame, l.list(), wantedOf(set))); n != 1 {
				t.Fatalf("seed %d round %d: %d writes for the change of one endpoint", seed, round, n)
			}
			l.check(t, set)
		}
	}
}

func (l *ledger) check(t *testing.T, set map[int]bool) {
	t.Helper()
	var got, want []string
	for _, s := range l.slices {
		if len(s.Endpoints) > maxPerSlice {
			t.Fatalf("a slice has %d endpoints", len(s.Endpoints))
		}
		if len(s.Endpoints) == 0 && len(l.slices) > 1 {
			t.Fatal("an empty slice is kept beside others")
		}
		for _, e := range s.Endpoints {
			got = append(got, fmt.Sprint(e.Addresses[0], *e.Conditions.Ready))
		}
	}
	for i, ready := range set {
		want = append(want, fmt.Sprint(endpointN(i, ready).Addresses[0], ready))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("slices hold\n%v, want\n%v", got, want)
	}
}

func TestTruncate(t *testing.T) {
	subset := func(ready, notReady int) corev1.EndpointSubset {
		return corev1.EndpointSubset{Addresses: make([]corev1.EndpointAddress, ready), NotReadyAddresses: make([]corev1.EndpointAddress, notReady)}
	}
	tests := []struct {
		in, want [][2]int
		cut      bool
	}{
		{in: [][2]int{{600, 400}}, want: [][2]int{{600, 400}}},
		{in: [][2]int{{600, 401}}, want: [][2]int{{600, 400}}, cut: true},
		{in: [][2]int{{1500, 20}}, want: [][2]int{{1000, 0}}, cut: true},
		{in: [][2]int{{1200, 0}, {400, 5}}, want: [][2]int{{750, 0}, {250, 0}}, cut: true},
	}
	for _, tt := range tests {
		var subsets []corev1.EndpointSubset
		for _, n := range tt.in {
			subsets = append(subsets, subset(n[0], n[1]))
		}
		cut := truncate(subsets)
		var got [][2]int
		for _, s := range subsets {
			got = append(got, [2]int{len(s.Addresses), len(s.NotReadyAddresses)})
		}
		if cut != tt.cut || !slices.Equal(got, tt.want) {
			t.Errorf("%v is cut to %v (%v), want %v (%v)", tt.in, got, cut, tt.want, tt.cut)
		}
	}
}

func BenchmarkPlanOneOf1000(b *testing.B) {
	l, set := &ledger{slices: map[string]*discoveryv1.EndpointSlice{}}, map[int]bool{}
	for i := range 1000 {
		set[i] = true
	}
	l.apply(makePlan(testFrame, l.list(), wantedOf(set)))
	for i := 0; b.Loop(); i++ {
		set[i%1000] = !set[i%1000]
		if n := l.apply(makePlan(testFrame, l.list(), wantedOf(set))); n != 1 {
			b.Fatalf("%d writes", n)
		}
	}
}
