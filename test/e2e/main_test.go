// Package e2e tests Skep as users see it, on a local cluster of three hosts
// with the programs that `make build` leaves in bin/, through skep's command
// line and the API. Tests share the cluster and keep to namespaces of their own;
// those that disturb a host repair it again.
package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"k8s.io/client-go/kubernetes"

	"github.com/skep-io/skep/cmd/skep/cluster"
	"github.com/skep-io/skep/test/clustertest"
)

const (
	nodes    = 3
	patience = clustertest.Patience
)

var (
	local  *clustertest.Cluster
	client kubernetes.Interface
	bin    string
)

func TestMain(m *testing.M) {
	os.Exit(clustertest.Main(m, "e2e", "../../bin", cluster.Options{Nodes: nodes, Zones: nodes}, func(c *clustertest.Cluster) {
		local, client, bin = c, c.API, c.Bin
	}))
}

// space is a namespace of one test, removed with all in it at its end.
type space struct{ *clustertest.Space }

func newSpace(t *testing.T) *space {
	t.Helper()
	return &space{local.NewSpace(t)}
}

// apply applies a file of docs/examples.
func (s *space) apply(file string) {
	s.Helper()
	s.Skep("apply", "-f", filepath.Join("..", "..", "docs", "examples", file))
}

// in is the space for a subtest.
func (s *space) in(t *testing.T) *space {
	return &space{&clustertest.Space{T: t, Name: s.Name, Cluster: s.Cluster}}
}
