// Package plan is what the host tells the guest to run, and how the guest
// answers. It owns that protocol and never acts on it.
package plan

import "time"

// File is where the guest finds its plan.
const File = "/plan.json"

// Tree is the guest's copy of the module's tree: test binaries lie in the
// folders of their packages, with what their tests read.
const Tree = "/skep"

// Run is a test binary to run, in its folder below Tree.
type Run struct {
	Folder string        // of the package, from the module's root
	Binary string        // in the folder
	Args   []string      // for the binary
	Env    []string      // besides what every binary gets
	Limit  time.Duration // it is killed after that
}

// The guest's answers: a line each, on its second serial port. Lines of a test
// binary follow Output, as the binary wrote them.
const (
	Kernel = "kernel " // and its release
	Began  = "began "  // and the folder
	Output = "| "      // and a line
	Ended  = "ended "  // and "ok", or how it failed
	Broken = "broken " // and why the guest cannot go on
	Done   = "done"    // nothing follows
)
