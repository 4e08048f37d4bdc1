// Package certificates tests that nothing in a cluster stops trusting anything else as the years go by, without a restart.
package certificates
