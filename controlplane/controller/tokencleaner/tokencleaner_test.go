package tokencleaner

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	testingclock "k8s.io/utils/clock/testing"

	"github.com/skep-io/skep/controlplane/controlplanetest"
	"github.com/skep-io/skep/controlplane/jointoken"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// Expired tokens are deleted, also hand-written ones; everything else stays.
func TestExpiredTokensGo(t *testing.T) {
	registry := controlplanetest.Start(t)
	begin := time.Now().Truncate(time.Second)
	clock := testingclock.NewFakeClock(begin)
	token := func(id string, expires time.Time) *corev1.Secret {
		return jointoken.Token{ID: id, Secret: "0123456789abcdef", Expires: expires, Authentication: true}.Object()
	}
	other := token("other0", begin.Add(-time.Hour))
	other.Type = corev1.SecretTypeOpaque
	odd := token("odd000", begin.Add(-time.Hour))
	odd.Data["expiration"] = []byte("tomorrow")
	elsewhere := token("where0", begin.Add(-time.Hour))
	elsewhere.Namespace = metav1.NamespaceDefault
	controlplanetest.Create(t, registry, token("past00", begin.Add(-time.Second)), token("soon00", begin.Add(time.Minute)),
		token("later0", begin.Add(time.Hour)), token("never0", time.Time{}), other, odd, elsewhere)
	controlplanetest.Go(t, func(ctx context.Context) { _ = New(registry, clock).Run(ctx) })
	left := func(want ...string) {
		t.Helper()
		controlplanetest.Await(t, registry, []*resource.Kind{kinds.Secrets}, func() string {
			// A fake clock moves only when it is stepped, and a loop may set its delay after that.
			clock.Step(0)
			var have []string
			for _, s := range controlplanetest.List[*corev1.Secret](registry, kinds.Secrets, "") {
				if s.Type == corev1.SecretTypeBootstrapToken || s.Type == corev1.SecretTypeOpaque {
					have = append(have, s.Name[len(jointoken.SecretPrefix):])
				}
			}
			slices.Sort(have)
			if slices.Equal(have, want) {
				return ""
			}
			return fmt.Sprintf("there are the tokens %v, want %v", have, want)
		})
	}
	left("later0", "never0", "odd000", "other0", "soon00", "where0")
	for !clock.HasWaiters() { // the loop waits for the next to expire
		<-time.NewTimer(time.Millisecond).C
	}
	clock.Step(2 * time.Minute)
	left("later0", "never0", "odd000", "other0", "where0")
}
