package podpath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

func (p *Path) linkDir() string { return filepath.Join(p.options.PinDir, linkPins) }

// Remove takes every program of this package off the interfaces of this network namespace, and every pin below a pin folder
// away. It succeeds if there is nothing.
func Remove(pinDir string) error {
	var failed []error
	for _, way := range []attacher{tcx{dir: filepath.Join(pinDir, linkPins)}, clsact{}} {
		attached, err := way.interfaces()
		failed = append(failed, err)
		for _, index := range attached {
			failed = append(failed, way.detach(index))
		}
	}
	if err := errors.Join(failed...); err != nil {
		return err
	}
	if err := os.RemoveAll(pinDir); err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	return nil
}
