// Package e2e holds the tests on a whole local cluster; they have files of their own.
package e2e
