// Package scheduling measures how many pods a second the control plane creates and binds with 5,000 nodes, and the memory it takes.
package scheduling
