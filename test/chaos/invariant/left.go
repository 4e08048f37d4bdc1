package invariant

import (
	"fmt"
	"slices"
)

// Left compares what there is of a kind, by name, with what there was before: what is new was left behind.
func Left(what string, before, after []string) (violations []error) {
	for _, name := range after {
		if !slices.Contains(before, name) {
			violations = append(violations, fmt.Errorf("left behind: %s %s", what, name))
		}
	}
	return violations
}
