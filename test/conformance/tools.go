//go:build tools

package main

// The suite is built from here by name (build.go); this keeps its requirements in go.mod.
import _ "k8s.io/kubernetes/test/e2e"
