package apiserver

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"

	"github.com/skep-io/skep/controlplane/resource"
)

// catalog holds the discovery documents. It is replaced as a whole when kinds change.
type catalog struct {
	groups    []metav1.APIGroup // in order of first appearance, the core group (name "") first
	resources map[schema.GroupVersion]*metav1.APIResourceList
	paths     []string
	core      aggregated
	named     aggregated
}

// aggregated is the discovery of all groups below /api or /apis in one document, by its version.
type aggregated map[string]document

type document struct {
	data []byte
	etag string
}

// aggregatedVersions are the versions of aggregated discovery: clients from before 1.30 know v2beta1 alone, whose JSON is
// the same.
var aggregatedVersions = []string{"v2", "v2beta1"}

func newCatalog(kinds []*resource.Kind) *catalog {
	c := &catalog{resources: map[schema.GroupVersion]*metav1.APIResourceList{}}
	for _, kind := range kinds {
		for _, served := range kind.AllVersions() {
			c.add(served.GVK.GroupVersion(), resourcesOf(served))
		}
	}
	c.add(schema.GroupVersion{Version: "v1"}, []metav1.APIResource{
		{Name: "bindings", SingularName: "binding", Namespaced: true, Kind: "Binding", Verbs: []string{"create"}},
	})
	c.add(metricsGroupVersion, []metav1.APIResource{
		{Name: "nodes", Kind: "NodeMetrics", Verbs: []string{"get", "list"}},
		{Name: "pods", Kind: "PodMetrics", Namespaced: true, Verbs: []string{"get", "list"}},
	})
	for i := range selfReviews {
		r := &selfReviews[i]
		c.add(r.group, []metav1.APIResource{{Name: r.resource(), SingularName: r.singular, Kind: r.kind, Verbs: []string{"create"}}})
	}
	for i := range c.groups {
		group := &c.groups[i]
		slices.SortFunc(group.Versions, func(a, b metav1.GroupVersionForDiscovery) int {
			return version.CompareKubeAwareVersionStrings(b.Version, a.Version)
		})
		group.PreferredVersion = group.Versions[0]
	}
	slices.SortStableFunc(c.groups, func(a, b metav1.APIGroup) int { return strings.Compare(a.Name, b.Name) })
	c.core, c.named = c.aggregate(true), c.aggregate(false)
	c.paths = c.listPaths()
	return c
}

func (c *catalog) add(gv schema.GroupVersion, resources []metav1.APIResource) {
	list, ok := c.resources[gv]
	if !ok {
		list = &metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: gv.String()}
		c.resources[gv] = list
		version := metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version}
		i := slices.IndexFunc(c.groups, func(g metav1.APIGroup) bool { return g.Name == gv.Group })
		if i < 0 {
			c.groups = append(c.groups, metav1.APIGroup{TypeMeta: metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"}, Name: gv.Group, PreferredVersion: version})
			i = len(c.groups) - 1
		}
		c.groups[i].Versions = append(c.groups[i].Versions, version)
	}
	list.APIResources = append(list.APIResources, resources...)
	slices.SortFunc(list.APIResources, func(a, b metav1.APIResource) int { return strings.Compare(a.Name, b.Name) })
}

// resourcesOf lists a kind and its subresources.
func resourcesOf(kind *resource.Kind) []metav1.APIResource {
	main := metav1.APIResource{
		Name: kind.Resource, SingularName: kind.Singular, Namespaced: kind.Namespaced, Kind: kind.GVK.Kind,
		Verbs: slices.Sorted(slices.Values(kind.Verbs)), ShortNames: kind.ShortNames, Categories: kind.Categories,
	}
	list := []metav1.APIResource{main}
	for _, sub := range kind.AllSubresources() {
		r := metav1.APIResource{Name: kind.Resource + "/" + sub.Name, Namespaced: kind.Namespaced, Kind: sub.GVK.Kind, Verbs: sub.Verbs}
		if sub.GVK.GroupVersion() != kind.GVK.GroupVersion() {
			r.Group, r.Version = sub.GVK.Group, sub.GVK.Version
		}
		list = append(list, r)
	}
	return list
}

// aggregate makes the documents of /api (core) or of /apis.
func (c *catalog) aggregate(core bool) aggregated {
	list := apidiscoveryv2.APIGroupDiscoveryList{Items: []apidiscoveryv2.APIGroupDiscovery{}}
	for _, group := range c.groups {
		if (group.Name == "") != core {
			continue
		}
		item := apidiscoveryv2.APIGroupDiscovery{ObjectMeta: metav1.ObjectMeta{Name: group.Name}}
		for _, version := range group.Versions {
			gv := schema.GroupVersion{Group: group.Name, Version: version.Version}
			item.Versions = append(item.Versions, apidiscoveryv2.APIVersionDiscovery{
				Version: gv.Version, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent,
				Resources: aggregateResources(gv, c.resources[gv].APIResources),
			})
		}
		list.Items = append(list.Items, item)
	}
	documents := aggregated{}
	for _, version := range aggregatedVersions {
		list.TypeMeta = metav1.TypeMeta{Kind: "APIGroupDiscoveryList", APIVersion: "apidiscovery.k8s.io/" + version}
		documents[version] = newDocument(list)
	}
	return documents
}

func aggregateResources(gv schema.GroupVersion, flat []metav1.APIResource) []apidiscoveryv2.APIResourceDiscovery {
	var out []apidiscoveryv2.APIResourceDiscovery
	for _, r := range flat { // sorted, so that a resource comes before its subresources
		kind := &metav1.GroupVersionKind{Group: gv.Group, Version: gv.Version, Kind: r.Kind}
		if r.Version != "" {
			kind.Group, kind.Version = r.Group, r.Version
		}
		name, sub, isSub := strings.Cut(r.Name, "/")
		if isSub {
			i := slices.IndexFunc(out, func(d apidiscoveryv2.APIResourceDiscovery) bool { return d.Resource == name })
			out[i].Subresources = append(out[i].Subresources, apidiscoveryv2.APISubresourceDiscovery{
				Subresource: sub, ResponseKind: kind, Verbs: r.Verbs,
			})
			continue
		}
		scope := apidiscoveryv2.ScopeCluster
		if r.Namespaced {
			scope = apidiscoveryv2.ScopeNamespace
		}
		out = append(out, apidiscoveryv2.APIResourceDiscovery{
			Resource: r.Name, ResponseKind: kind, Scope: scope, SingularResource: r.SingularName,
			Verbs: r.Verbs, ShortNames: r.ShortNames, Categories: r.Categories,
		})
	}
	return out
}

func newDocument(v any) document {
	data, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("encode discovery: %v", err)) // plain structs
	}
	return document{data, newEtag(data)}
}

func newEtag(data []byte) string {
	sum := sha256.Sum256(data)
	return `"` + strings.ToUpper(hex.EncodeToString(sum[:])) + `"`
}

func (c *catalog) listPaths() []string {
	paths := []string{"/api", "/apis", "/debug/pprof", "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"}
	for gv := range c.resources {
		if gv.Group == "" {
			paths = append(paths, "/api/"+gv.Version)
		} else {
			paths = append(paths, "/apis/"+gv.Group, "/apis/"+gv.String())
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// discovery answers /api, /apis and the paths below them down to the lists of resources. It returns false for other paths.
func (s *Server) discovery(w http.ResponseWriter, c *call) bool {
	parts := strings.Split(strings.Trim(c.URL.Path, "/"), "/")
	core := parts[0] == "api"
	switch {
	case len(parts) == 1 && (core || parts[0] == "apis"):
		if s.aggregatedDiscovery(w, c, core) {
			return true
		}
		if core {
			s.answerDocument(w, c, metav1.APIVersions{
				TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: []string{"v1"},
				ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{{ClientCIDR: "0.0.0.0/0", ServerAddress: c.Host}},
			})
			return true
		}
		list := metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}, Groups: []metav1.APIGroup{}}
		for _, group := range s.api.Load().catalog.groups {
			if group.Name != "" {
				group.TypeMeta = metav1.TypeMeta{}
				list.Groups = append(list.Groups, group)
			}
		}
		s.answerDocument(w, c, list)
		return true
	case len(parts) == 2 && core:
		return s.resourceList(w, c, schema.GroupVersion{Version: parts[1]})
	case len(parts) == 3 && parts[0] == "apis":
		return s.resourceList(w, c, schema.GroupVersion{Group: parts[1], Version: parts[2]})
	case len(parts) == 2 && parts[0] == "apis":
		for _, group := range s.api.Load().catalog.groups {
			if group.Name == parts[1] && group.Name != "" {
				s.answerDocument(w, c, group)
				return true
			}
		}
	}
	return false
}

func (s *Server) resourceList(w http.ResponseWriter, c *call, gv schema.GroupVersion) bool {
	list, ok := s.api.Load().catalog.resources[gv]
	if ok {
		s.answerDocument(w, c, list)
	}
	return ok
}

// aggregatedDiscovery answers with all groups in one document if the client asks for that before it asks for plain JSON.
func (s *Server) aggregatedDiscovery(w http.ResponseWriter, c *call, core bool) bool {
	catalog := s.api.Load().catalog
	documents := catalog.named
	if core {
		documents = catalog.core
	}
	for _, clause := range parseAccept(strings.Join(c.Header.Values("Accept"), ",")) {
		if !clause.matches(mediaJSON) {
			continue
		}
		if clause.params["as"] == "" {
			return false
		}
		version := clause.params["v"]
		doc, ok := documents[version]
		if !ok || clause.params["g"] != "apidiscovery.k8s.io" || clause.params["as"] != "APIGroupDiscoveryList" {
			continue
		}
		w.Header().Set("ETag", doc.etag)
		w.Header().Add("Vary", "Accept")
		if c.Header.Get("If-None-Match") == doc.etag {
			w.WriteHeader(http.StatusNotModified)
			return true
		}
		writeBytes(w, c.Request, mediaJSON+";g=apidiscovery.k8s.io;v="+version+";as=APIGroupDiscoveryList", http.StatusOK, doc.data)
		return true
	}
	return false
}

func (s *Server) answerDocument(w http.ResponseWriter, c *call, v any) {
	w.Header().Add("Vary", "Accept")
	writeBytes(w, c.Request, mediaJSON, http.StatusOK, newDocument(v).data)
}
