// Package service keeps the kernel's service tables equal to a desired state,
// and the programs that read them attached.
//
// It owns the pinned maps and links below one pin folder: nothing else writes
// them. It never decides which backends a service should have, never calls an
// API server, and never empties a map because no service has been set yet: what
// an earlier process installed keeps working until Synced.
package service
