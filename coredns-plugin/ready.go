package skep

// Ready implements ready.Readiness: true once every kind has been read once.
func (s *Skep) Ready() bool { return s.source != nil && s.source.Synced() }
