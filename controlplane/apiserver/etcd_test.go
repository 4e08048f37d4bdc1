package apiserver

import (
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/controlplane/pki"
)

// The whole database, with every secret in it, and the list of certificates are the administrator's alone.
func TestOnlyTheAdministratorMaintains(t *testing.T) {
	node := identity{name: pki.NodePrefix + "node1", groups: []string{pki.NodesGroup}}
	for _, id := range []identity{node, {name: pki.DNSName}, {name: "someone", groups: []string{"system:authenticated"}}} {
		for _, path := range []string{skepv1.PathEtcd + "snapshot", skepv1.PathEtcd + "status", skepv1.PathEtcd + "defragment", skepv1.PathCertificates} {
			for _, verb := range []string{"get", "post"} {
				if err := shared.server.authorize(id, attributes{verb: verb, path: path}); !apierrors.IsForbidden(err) {
					t.Errorf("%s may %s %s: %v", id.name, verb, path, err)
				}
			}
		}
	}
}
