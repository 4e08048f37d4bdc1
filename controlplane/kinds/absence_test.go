package kinds

import (
	"testing"

	"github.com/skep-io/skep/controlplane/resource"
)

// Every kind declares whether control loops may start while an object of it cannot be decoded.
func TestEveryKindSaysWhatAbsenceMeans(t *testing.T) {
	for _, k := range All() {
		if k.Absence != resource.AbsenceDecides && k.Absence != resource.AbsenceIgnored {
			t.Errorf("%s: set Absence to resource.AbsenceDecides or resource.AbsenceIgnored", k.Resource)
		}
	}
}
