// Package cluster runs a whole Skep cluster on one machine: a control plane
// and N virtual hosts. `skep up` and the tests use it alike.
//
// A virtual host is a network namespace (skep-NAME-nodeK), a cgroup v2 folder
// (skep-NAME/nodeK), a mount and a UTS namespace, and a first process that
// keeps skep-agent running in them, as systemd would on a real host. Hosts are on
// a bridge of the root network namespace; skepd runs in the root namespace
// and listens at the bridge's address.
//
// Names on the machine, all derived from the cluster's name:
//
//	bridge               skep-ID     ID is the name, or 8 hex digits of its SHA-256 where the name has more than 8 characters
//	port of host K       sk-ID-K     its other end is eth0 inside the host
//	network namespace    skep-NAME-nodeK, bind-mounted below /run/netns as ip-netns(8) does
//	cgroup               skep-NAME   in the v2 hierarchy, and the same path in the v1 hierarchies where there are any
//	addresses            198.18.N.0/24: the bridge has .1, host K has .(10+K)
//
// The package owns everything under these names and under the cluster's state
// folder, and never changes anything else, with one exception that the user has
// to ask for: forwarding and masquerade towards the outside (Options.Outbound).
package cluster
