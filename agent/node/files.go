package node

import "github.com/skep-io/skep/durable"

// writeFile replaces a file so that a crash leaves the old or the new one, readable by the owner only.
func writeFile(path string, data []byte) error { return durable.WriteFile(path, data, 0o600) }
