package storage

import "time"

// SetBound is for tests that do not want to wait as long as a skepd.
func (e *Etcd) SetBound(within time.Duration) { e.within = within }
