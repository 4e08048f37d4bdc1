package resource

// MemberPrefix is above the keys that say which certificates of a node count: the key ends in the node's name. A node's key goes
// with its Node object, in one transaction.
const MemberPrefix = "/skep/members/"

// MemberKey is the key of a node's membership.
func MemberKey(node string) string { return MemberPrefix + node }
