package v1

// Applied says which nodes do not have all endpoint slices up to a revision in their service maps yet. Nodes whose agents do not report
// it, or that do not report at all, are left out.
type Applied struct {
	Pending []string `json:"pending"`
}
