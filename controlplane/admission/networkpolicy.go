package admission

import (
	"context"

	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/warning"

	"github.com/skep-io/skep/controlplane/resource"
)

// NetworkPolicyWarning is the message for everybody who relies on a policy.
const NetworkPolicyWarning = "network policies are stored and not enforced: pods are reached, and reach others, as if there were none"

// networkPolicyWarning warns writers of a network policy that nothing enforces it. It refuses nothing.
type networkPolicyWarning struct {
	*admission.Handler
	policies *resource.Kind
}

func (p *networkPolicyWarning) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if of(a, p.policies) {
		warning.AddWarning(ctx, "", NetworkPolicyWarning)
	}
	return nil
}
