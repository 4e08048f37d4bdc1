// Package install tests docs/install.md by doing what it says: its commands are
// run, as they stand there, on virtual hosts on which nothing of Skep is
// installed. The units in docs/systemd are run by a stand-in for systemd,
// which the hosts do not have. Needs the programs that `make build` leaves in bin/.
package install

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/skep-io/skep/cmd/skep/cluster"
)

// TestMain lets the test binary be the programs of the hosts under test.
func TestMain(m *testing.M) {
	switch name := filepath.Base(os.Args[0]); {
	case name == "systemctl":
		os.Exit(systemctl(os.Args[1:]))
	case name == "journalctl":
		os.Exit(journalctl(os.Args[1:]))
	case len(os.Args) == 2 && os.Args[1] == "stand-in":
		fmt.Fprintln(os.Stderr, serveStandIn())
		os.Exit(1)
	case len(os.Args) == 3 && os.Args[1] == "node-init":
		if err := cluster.RunInit(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	default:
		os.Exit(m.Run())
	}
}
