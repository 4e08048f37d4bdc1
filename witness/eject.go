package witness

import "slices"

const (
	// heldFrom is how many nodes of a zone must seem gone before ejection can stop: one may always be ejected.
	heldFrom = 2
	// heldShare: ejection stops when one in heldShare of a zone's nodes, or more, seem gone.
	heldShare = 3
)

// Ejection is what follows from the verdicts for the service maps of one node.
type Ejection struct {
	// Out are the nodes to take out of the maps, in order of their names.
	Out []string
	// Held are the zones in which too many nodes seem gone: none of theirs is out. By zone, how many seem gone.
	Held map[string]int
}

// Eject decides which of the nodes with a verdict are taken out of the maps of node self. Nodes that the control plane has taken out
// already count neither as gone nor as the zone's: when it confirms that a part of a zone is gone, ejection goes on among the rest.
// Self is never out, and never are all others: a map without backends is worse than an old one.
func Eject(self string, nodes []Node, isDown func(node string) bool) Ejection {
	gone, total := map[string]int{}, map[string]int{}
	for _, n := range nodes {
		if n.Down {
			continue
		}
		total[n.Zone]++
		if n.Name != self && isDown(n.Name) {
			gone[n.Zone]++
		}
	}
	e := Ejection{Held: map[string]int{}}
	for zone, n := range gone {
		if n >= heldFrom && n*heldShare >= total[zone] {
			e.Held[zone] = n
		}
	}
	left := 0
	for _, n := range nodes {
		_, held := e.Held[n.Zone]
		switch {
		case n.Name == self:
		case isDown(n.Name) && (n.Down || !held):
			e.Out = append(e.Out, n.Name)
		case !n.Down:
			left++
		}
	}
	if left == 0 {
		e.Out = nil
	}
	slices.Sort(e.Out)
	return e
}
