package watchcache

// Cache holds the objects of one kind.
type Cache struct{}
