package podpath

import (
	"errors"

	"github.com/skep-io/skep/dataplane/pinned"
)

// Remove removes every program of this package from the interfaces of this network namespace, and every pin below a pin
// folder. It succeeds if there is nothing.
func Remove(pinDir string) error {
	attached, err := clsact{}.interfaces()
	failed := []error{err}
	for _, index := range attached {
		failed = append(failed, clsact{}.detach(index))
	}
	if err := errors.Join(failed...); err != nil {
		return err
	}
	return pinned.Remove(pinDir)
}
