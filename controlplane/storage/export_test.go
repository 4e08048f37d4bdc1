package storage

import "time"

// SetBound sets a shorter timeout for tests.
func (e *Etcd) SetBound(within time.Duration) { e.within = within }
