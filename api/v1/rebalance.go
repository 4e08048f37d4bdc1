package v1

import (
	"fmt"
	"net/url"
	"strconv"
)

// RebalanceQuery says of which workloads a RebalancePlan is.
type RebalanceQuery struct {
	// Namespace is the only one; "": all.
	Namespace string
	// Except are workloads, NAMESPACE/KIND/NAME, that are left where they are.
	Except []string
	// Limit is how many moves are planned at most; 0: all.
	Limit int
}

// Values are the query of PathRebalance.
func (q RebalanceQuery) Values() url.Values {
	return url.Values{"namespace": {q.Namespace}, "except": q.Except, "limit": {strconv.Itoa(q.Limit)}}
}

// RebalanceQueryOf reads a query of PathRebalance.
func RebalanceQueryOf(v url.Values) (RebalanceQuery, error) {
	q := RebalanceQuery{Namespace: v.Get("namespace"), Except: v["except"]}
	if text := v.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return q, fmt.Errorf("limit=%s is not a number of moves", text)
		}
		q.Limit = n
	}
	return q, nil
}

// RebalancePlan says which replicas would move, one after the other, for their workloads to be spread as new pods would be, and which
// workloads stay as they are although they could be spread better.
type RebalancePlan struct {
	Moves []RebalanceMove `json:"moves"`
	// Waiting are workloads of which not all replicas are ready: nothing of them moves until they are.
	Waiting []RebalanceNote `json:"waiting,omitempty"`
	Kept    []RebalanceNote `json:"kept,omitempty"`
}

// RebalanceMove is a pod that would be evicted, and where the scheduler would place the one that replaces it.
type RebalanceMove struct {
	Workload string `json:"workload"` // NAMESPACE/KIND/NAME
	// Owner is the UID of the pod's controller.
	Owner     string `json:"owner"`
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	UID       string `json:"uid"`
	From      string `json:"from"`
	To        string `json:"to"`
	Reason    string `json:"reason"`
}

// RebalanceNote is why a workload is left as it is.
type RebalanceNote struct {
	Workload string `json:"workload"`
	Reason   string `json:"reason"`
}
