// Package apiserver serves Kubernetes' API over HTTPS: paths and discovery, content types, lists and watches, changes,
// subresources, the way through to the agents, and metrics.k8s.io. It owns what is HTTP about the API and who may ask for
// what. It never touches etcd and holds no rules about kinds: both lie behind resource.Registry.
//
// A request goes through, in this order: server.go (recovery, limits), identity.go (who), authorize.go (may they),
// route.go (which handler), and one file per verb or subresource. negotiate.go, codec.go, body.go and respond.go turn
// bytes into objects and back.
package apiserver
