package apiserver

import (
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/controlplane/pki"
)

// Only the administrator may read the whole database, with every secret in it, and the list of certificates.
func TestOnlyTheAdministratorMaintains(t *testing.T) {
	node := &user.DefaultInfo{Name: pki.NodePrefix + "node1", Groups: []string{pki.NodesGroup}}
	for _, u := range []*user.DefaultInfo{node, {Name: pki.DNSName}, {Name: "someone", Groups: []string{"system:authenticated"}}} {
		for _, path := range []string{skepv1.PathEtcd + "snapshot", skepv1.PathEtcd + "status", skepv1.PathEtcd + "defragment", skepv1.PathCertificates, skepv1.PathPodRanges} {
			for _, verb := range []string{"get", "post"} {
				if err := shared.server.authorize(t.Context(), authorizer.AttributesRecord{User: u, Verb: verb, Path: path}); !apierrors.IsForbidden(err) {
					t.Errorf("%s may %s %s: %v", u.Name, verb, path, err)
				}
			}
		}
	}
}
