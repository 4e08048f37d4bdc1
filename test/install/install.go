// Package install runs the installation page as it is written, by tests in files of their own.
package install
