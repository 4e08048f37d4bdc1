package witness

import corev1 "k8s.io/api/core/v1"

// Reachable is the condition of a Node by which the control plane publishes a verdict. It is False while there is one, and True once
// the watchers reach the node again; Unknown if none has said anything for Validity. A node that never had a verdict has no such condition.
const Reachable corev1.NodeConditionType = "skep.io/Reachable"

// Reasons of the condition.
const (
	ReasonUnreachable = "WatchersCannotReach"
	ReasonReachable   = "WatchersReach"
	ReasonExpired     = "StatementsExpired"
)
