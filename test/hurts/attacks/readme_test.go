package attacks

import (
	"testing"

	"github.com/skep-io/skep/test/hurts/casetable"
)

// The table names tests that exist, and every test of the package is in the table.
func TestTableNamesTheTests(t *testing.T) { casetable.Check(t, "test/hurts/attacks") }
