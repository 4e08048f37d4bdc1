// Package examples holds the YAML files that people read and try, embedded so
// that the demo, the tests and `skep up` apply these very files. It holds
// nothing else.
package examples

import "embed"

//go:embed *.yaml
var Files embed.FS
