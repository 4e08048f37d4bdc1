package services

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/skep-io/skep/controlplane/servicespec"
	"github.com/skep-io/skep/dataplane/service"
)

// The control plane reports on Services which one has a contested address, and the data plane decides
// it: both by the same rule.
func TestControlPlaneAndPlaneAgreeOnConflicts(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 2000 {
		var claims []servicespec.Claim
		var want []service.Service
		for i := range 1 + random.IntN(5) {
			c := servicespec.Claim{Given: random.IntN(4) == 0, Since: int64(random.IntN(3)), Name: fmt.Sprintf("ns/s%d", i)}
			claims = append(claims, c)
			want = append(want, service.Service{Name: c.Name, Since: c.Since, Frontends: []service.Frontend{
				{Addr: netip.MustParseAddr("192.0.2.1"), Port: 80, Protocol: service.TCP, Given: c.Given},
			}})
		}
		random.Shuffle(len(want), func(i, j int) { want[i], want[j] = want[j], want[i] })
		first := slices.MinFunc(claims, servicespec.Claim.Compare)
		// To empty maps, the one difference is that the owner is not there.
		differences := service.Compare("me", want, nil, &service.Dump{})
		if len(differences) != 1 || differences[0].Subject != first.Name {
			t.Fatalf("round %d: of %+v the control plane says %s, the plane differs by %v", round, claims, first.Name, differences)
		}
	}
}
