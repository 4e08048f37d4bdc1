// Package apiserver serves Kubernetes' API over HTTPS: paths and discovery, content types, lists and watches, changes, subresources,
// connections to the agents, and metrics.k8s.io. It owns the HTTP side of the API, and who may do what. It never reads or writes etcd and
// holds no rules about kinds: both are behind resource.Registry.
//
// A request goes through, in this order: server.go (recovery, limits), identity.go (who), authorize.go (may they),
// route.go (which handler), and one file per verb or subresource. negotiate.go, codec.go, body.go and respond.go turn
// bytes into objects and back.
package apiserver
