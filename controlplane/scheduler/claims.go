package scheduler

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// claimFilter keeps pods from all hosts that use persistent volume claims: Skep has no claims, so the claim is never found. It says so in the words
// of VolumeBinding.
type claimFilter struct{}

type claimCheck struct{ why string }

func (claimFilter) check(_ *cluster, req *request) check {
	if req.claim == "" {
		return nil
	}
	return claimCheck{req.claim}
}

func (claimCheck) fits(*host) bool { return false }

func (k claimCheck) explain(*host) ([]string, bool) { return []string{k.why}, false }

// refusesAll makes the reason stand without a number of hosts.
func (k claimCheck) refusesAll() string { return k.why }

// missingClaim says which persistent volume claim a pod lacks; "": none.
func missingClaim(pod *corev1.Pod) string {
	for i := range pod.Spec.Volumes {
		switch v := &pod.Spec.Volumes[i]; {
		case v.PersistentVolumeClaim != nil:
			return fmt.Sprintf("persistentvolumeclaim %q not found", v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			return fmt.Sprintf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", pod.Name+"-"+v.Name)
		}
	}
	return ""
}
