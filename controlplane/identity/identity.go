// Package identity says who acts: administrators, agents of nodes, and the parts of skepd themselves. Users are upstream's
// user.Info and travel in contexts as they do in kube-apiserver. It decides nothing.
package identity

import (
	"context"
	"slices"
	"strings"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// nodePrefix is the prefix of the names of nodes' users.
const nodePrefix = "system:node:"

// The parts of skepd that write objects, by the names of Kubernetes' own.
var (
	APIServer   user.Info = &user.DefaultInfo{Name: user.APIServerUser, Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}}
	Scheduler   user.Info = &user.DefaultInfo{Name: user.KubeScheduler, Groups: []string{user.AllAuthenticated}}
	Controllers user.Info = &user.DefaultInfo{Name: user.KubeControllerManager, Groups: []string{user.AllAuthenticated}}
)

// With sets the user who acts in ctx.
func With(ctx context.Context, u user.Info) context.Context { return request.WithUser(ctx, u) }

// From is the user who acts in ctx: the API server itself, if none is set.
func From(ctx context.Context) user.Info {
	if u, ok := request.UserFrom(ctx); ok {
		return u
	}
	return APIServer
}

// Master says whether a user is an administrator, who may do anything.
func Master(u user.Info) bool { return slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup) }

// Node is the name of the node whose agent the user is; "" if the user is no agent.
func Node(u user.Info) string {
	name, ok := strings.CutPrefix(u.GetName(), nodePrefix)
	if !ok || !slices.Contains(u.GetGroups(), user.NodesGroup) {
		return ""
	}
	return name
}
