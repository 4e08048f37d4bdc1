package scheduler

// shape is how much pods request. Pods that are made from one template have the same, so what a host was found to have for one pod holds for the next,
// until the host's amounts change.
type shape struct {
	used int64 // the sweep before which it was last asked for
}

// knownOf is what is known of a host for one shape. It is cleared with every change of the amounts.
type knownOf struct {
	shape          *shape
	fits           bool
	scored         bool // least and balance are known too
	least, balance int16
}

type shapeKey struct {
	needs  [3]int64 // CPU, memory, ephemeral storage
	scored [2]int64 // CPU and memory with assumptions
}

// shapeOf returns a pod's shape; nil if it requests other resources besides.
func (c *cluster) shapeOf(req *request) *shape {
	if len(req.needs.scalar) > 0 {
		return nil
	}
	if s := req.shape; s != nil && s.used == c.epoch {
		return s
	}
	key := shapeKey{[3]int64{req.needs.milliCPU, req.needs.memory, req.needs.ephemeral}, [2]int64{req.scored.milliCPU, req.scored.memory}}
	s := c.shapes[key]
	if s == nil {
		s = &shape{}
		c.shapes[key] = s
	}
	s.used, req.shape = c.epoch, s
	return s
}
