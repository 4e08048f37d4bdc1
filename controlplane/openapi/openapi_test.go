package openapi

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	cliresource "k8s.io/cli-runtime/pkg/resource"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/openapi3"
	"k8s.io/client-go/rest"
	explain "k8s.io/kubectl/pkg/explain/v2"
	openapiclient "k8s.io/kubectl/pkg/util/openapi"
	"k8s.io/kubectl/pkg/validation"

	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// documents are those of all kinds.
var documents = New(kinds.All())

func allVersions() []*resource.Kind {
	var all []*resource.Kind
	for _, k := range kinds.All() {
		all = append(all, k.AllVersions()...)
	}
	return all
}

// serve answers as the API server does, on loopback.
func serve(t *testing.T) *rest.Config {
	t.Helper()
	answer := func(w http.ResponseWriter, contentType string, data []byte, err error) {
		if err != nil {
			t.Errorf("document: %v", err)
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write(data)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/openapi/v2", func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.Header.Get("Accept"), "protobuf") {
			data, err := documents.V2Proto()
			answer(w, "application/com.github.proto-openapi.spec.v2.v1.0+protobuf", data, err)
			return
		}
		data, err := documents.V2()
		answer(w, "application/json", data, err)
	})
	mux.HandleFunc("/openapi/v3", func(w http.ResponseWriter, _ *http.Request) {
		data, err := documents.V3Index()
		answer(w, "application/json", data, err)
	})
	mux.HandleFunc("/openapi/v3/", func(w http.ResponseWriter, r *http.Request) {
		dir, version := path.Split(strings.TrimPrefix(r.URL.Path, "/openapi/v3/"))
		group := strings.Trim(strings.TrimPrefix(strings.TrimPrefix(dir, "apis"), "api"), "/")
		hash, err := documents.V3Hash(group, version)
		if err != nil || r.URL.Query().Get("hash") != hash {
			t.Errorf("%s: hash of the index is not that of the document (%v)", r.URL, err)
		}
		data, err := documents.V3(group, version)
		if strings.Contains(r.Header.Get("Accept"), "protobuf") {
			data, err = documents.V3Proto(group, version)
		}
		answer(w, r.Header.Get("Accept"), data, err)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return &rest.Config{Host: server.URL}
}

// TestExplain runs kubectl's explain on every kind.
func TestExplain(t *testing.T) {
	client := discovery.NewDiscoveryClientForConfigOrDie(serve(t)).OpenAPIV3()
	for _, kind := range allVersions() {
		var out bytes.Buffer
		if err := explain.PrintModelDescription(nil, &out, client, kind.GroupVersionResource(), false, 0, "plaintext"); err != nil {
			t.Errorf("explain %s: %v", kind.Resource, err)
		} else if !regexp.MustCompile(`KIND:\s+` + kind.GVK.Kind).Match(out.Bytes()) {
			t.Errorf("explain %s does not name the kind:\n%s", kind.Resource, out.String())
		}
	}
	pods := kinds.Pods.GroupVersionResource()
	for field, wants := range map[string][]string{
		"spec.containers":                            {"FIELD: containers <[]Container>", "List of containers belonging to the pod", "image\t<string>", "name\t<string> -required-"},
		"spec.containers.resources.limits":           {"FIELD: limits <map[string]Quantity>"},
		"spec.containers.livenessProbe.httpGet.port": {"FIELD: port <IntOrString>"},
		"metadata.creationTimestamp":                 {"FIELD: creationTimestamp <string>"},
		"spec.affinity.podAffinity":                  {"requiredDuringSchedulingIgnoredDuringExecution\t<[]PodAffinityTerm>"},
	} {
		var out bytes.Buffer
		if err := explain.PrintModelDescription(strings.Split(field, "."), &out, client, pods, false, 0, "plaintext"); err != nil {
			t.Errorf("explain pod.%s: %v", field, err)
			continue
		}
		for _, want := range wants {
			if !strings.Contains(out.String(), want) {
				t.Errorf("explain pod.%s has no %q:\n%s", field, want, out.String())
			}
		}
	}
}

// TestQueryParameters asks with kubectl's code whether a patch of every kind
// may ask for strict validation and for a dry run: kubectl create and apply do
// before they send anything.
func TestQueryParameters(t *testing.T) {
	config := serve(t)
	client := discovery.NewDiscoveryClientForConfigOrDie(config)
	for _, param := range []cliresource.VerifiableQueryParam{cliresource.QueryParamFieldValidation, "dryRun"} {
		verifier := cliresource.NewQueryParamVerifierV3(dynamic.NewForConfigOrDie(config), client.OpenAPIV3(), param)
		old := cliresource.NewQueryParamVerifier(dynamic.NewForConfigOrDie(config), openapiclient.NewOpenAPIGetter(client), param)
		for _, kind := range allVersions() {
			if err := verifier.HasSupport(kind.GVK); err != nil {
				t.Errorf("v3: %s: %v", kind.GVK, err)
			}
			if err := old.HasSupport(kind.GVK); err != nil {
				t.Errorf("v2: %s: %v", kind.GVK, err)
			}
		}
	}
}

// parsed joins two ends of kubectl that name the same method differently.
type parsed struct {
	*openapiclient.CachedOpenAPIParser
}

func (p parsed) OpenAPISchema() (openapiclient.Resources, error) { return p.Parse() }

// TestClientSideValidation checks manifests by the v2 document, as kubectl does where the
// server does not validate them.
func TestClientSideValidation(t *testing.T) {
	client := discovery.NewDiscoveryClientForConfigOrDie(serve(t))
	schema := validation.NewSchemaValidation(parsed{openapiclient.NewOpenAPIParser(client)})
	for manifest, want := range map[string]string{
		`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"a","image":"b","ports":[{"containerPort":80}],"resources":{"limits":{"cpu":"1","memory":2}},"livenessProbe":{"httpGet":{"port":"http"}}}]}}`: "",
		`{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"},"spec":{"ports":[{"port":80,"targetPort":8080}]}}`:                                                                                                                      "",
		`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"a","imgae":"b"}]}}`:                                                                                                                          `unknown field "imgae" in io.k8s.api.core.v1.Container`,
		`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{}}`:                                                                                                                                                                 `missing required field "containers" in io.k8s.api.core.v1.PodSpec`,
		`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":"x"}}`:                                                                                                                                                 `invalid type for io.k8s.api.core.v1.PodSpec.containers: got "string", expected "array"`,
	} {
		err := schema.ValidateBytes([]byte(manifest))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", manifest, err, want)
		}
	}
}

// TestApplyMergesByKey makes the patch that kubectl apply would, from the
// document alone.
func TestApplyMergesByKey(t *testing.T) {
	root := openapi3.NewRoot(discovery.NewDiscoveryClientForConfigOrDie(serve(t)).OpenAPIV3())
	gvSpec, err := root.GVSpec(schema.GroupVersion{Version: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	meta := strategicpatch.PatchMetaFromOpenAPIV3{Schema: gvSpec.Components.Schemas["io.k8s.api.core.v1.Pod"], SchemaList: gvSpec.Components.Schemas}
	original := `{"spec":{"containers":[{"name":"a","image":"a:1"},{"name":"gone","image":"x"}]}}`
	modified := `{"spec":{"containers":[{"name":"a","image":"a:2"}]}}`
	current := `{"spec":{"containers":[{"name":"a","image":"a:1"},{"name":"gone","image":"x"},{"name":"injected","image":"y"}]}}`
	patch, err := strategicpatch.CreateThreeWayMergePatch([]byte(original), []byte(modified), []byte(current), meta, true)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"spec":{"$setElementOrder/containers":[{"name":"a"}],"containers":[{"image":"a:2","name":"a"},{"$patch":"delete","name":"gone"}]}}`
	if string(patch) != want {
		t.Errorf("patch is\n  %s\nwant\n  %s", patch, want)
	}
	for _, kind := range allVersions() {
		gvSpec, err := root.GVSpec(kind.GVK.GroupVersion())
		if err != nil {
			t.Fatal(err)
		}
		merges := false
		for _, item := range gvSpec.Paths.Paths {
			if item.Patch != nil && item.Patch.RequestBody != nil {
				_, ok := item.Patch.RequestBody.Content["application/strategic-merge-patch+json"]
				merges = merges || ok
			}
		}
		if !merges {
			t.Errorf("%s: no patch that takes a strategic merge", kind.GVK)
		}
	}
}

// TestReferencesResolve follows every reference in every document, in each form.
func TestReferencesResolve(t *testing.T) {
	texts := map[string][]byte{}
	v2, err := documents.V2()
	if err != nil {
		t.Fatal(err)
	}
	texts["v2"] = v2
	for gv := range documents.v3 {
		if texts[gv.String()], err = documents.V3(gv.Group, gv.Version); err != nil {
			t.Fatal(err)
		}
		if data, err := documents.V3Proto(gv.Group, gv.Version); err != nil || len(data) == 0 {
			t.Errorf("%s as protobuf: %d bytes, %v", gv, len(data), err)
		}
	}
	reference := regexp.MustCompile(`"\$ref":"#/(definitions|components/schemas)/([^"]+)"`)
	for name, data := range texts {
		var parsed struct {
			Definitions map[string]any
			Components  struct{ Schemas map[string]any }
			Paths       map[string]map[string]any
		}
		if err := json.Unmarshal(data, &parsed); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		matches := reference.FindAllSubmatch(data, -1)
		if len(matches) == 0 {
			t.Errorf("%s has no references", name)
		}
		for _, match := range matches {
			defined := parsed.Definitions
			if string(match[1]) != "definitions" {
				defined = parsed.Components.Schemas
			}
			if _, ok := defined[string(match[2])]; !ok {
				t.Errorf("%s: %s is not defined", name, match[2])
			}
		}
	}
}

// TestOperationsFollowVerbs ties the document to the table of kinds.
func TestOperationsFollowVerbs(t *testing.T) {
	actions := map[string][]string{}
	s := swagger(allVersions(), newDefinitions())
	ids := map[string]string{}
	for path, item := range s.Paths.Paths {
		for _, op := range []struct {
			verb string
			is   bool
		}{
			{"get", item.Get != nil}, {"post", item.Post != nil}, {"put", item.Put != nil}, {"patch", item.Patch != nil}, {"delete", item.Delete != nil},
		} {
			if op.is {
				actions[path] = append(actions[path], op.verb)
			}
		}
		if item.Get != nil {
			if other, ok := ids[item.Get.ID]; ok {
				t.Errorf("%s and %s are both %s", path, other, item.Get.ID)
			}
			ids[item.Get.ID] = path
		}
	}
	for path, want := range map[string][]string{
		"/api/v1/pods":                                                       {"get"},
		"/api/v1/namespaces/{namespace}/pods":                                {"get", "post", "delete"},
		"/api/v1/namespaces/{namespace}/pods/{name}":                         {"get", "put", "patch", "delete"},
		"/api/v1/namespaces/{namespace}/pods/{name}/status":                  {"get", "put", "patch"},
		"/api/v1/namespaces/{namespace}/pods/{name}/log":                     {"get"},
		"/api/v1/namespaces/{namespace}/pods/{name}/exec":                    {"get", "post"},
		"/api/v1/namespaces/{namespace}/pods/{name}/binding":                 {"post"},
		"/api/v1/namespaces/{namespace}/replicationcontrollers/{name}/scale": {"get", "put", "patch"},
		"/api/v1/namespaces":                                                 {"get", "post"},
		"/api/v1/namespaces/{name}/finalize":                                 {"put"},
		"/api/v1/nodes/{name}":                                               {"get", "put", "patch", "delete"},
		"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices":    {"get", "post", "delete"},
		"/apis/networking.k8s.io/v1/ipaddresses/{name}":                      {"get", "put", "patch", "delete"},
	} {
		if !slices.Equal(actions[path], want) {
			t.Errorf("%s has %v, want %v", path, actions[path], want)
		}
	}
}

// TestDefinitionsMatchKubernetes holds single facts that tools rely on.
func TestDefinitionsMatchKubernetes(t *testing.T) {
	doc := openAPIv3(allVersions())
	port := doc.Components.Schemas["io.k8s.apimachinery.pkg.util.intstr.IntOrString"]
	if port == nil || len(port.OneOf) != 2 || port.Format != "int-or-string" {
		t.Errorf("IntOrString is %+v", port)
	}
	spec := doc.Components.Schemas["io.k8s.api.core.v1.PodSpec"]
	if !slices.Equal(spec.Required, []string{"containers"}) {
		t.Errorf("a PodSpec requires %v", spec.Required)
	}
	containers := spec.Properties["containers"]
	if containers.Extensions[extensionPatchMergeKey] != "name" || containers.Extensions[extensionPatchStrategy] != "merge" ||
		containers.Extensions[extensionListType] != "map" {
		t.Errorf("containers merge by %v", containers.Extensions)
	}
	ports := doc.Components.Schemas["io.k8s.api.core.v1.Container"].Properties["ports"]
	if keys, ok := ports.Extensions[extensionListMapKeys].([]string); !ok || !slices.Equal(keys, []string{"containerPort", "protocol"}) {
		t.Errorf("ports are told apart by %v", ports.Extensions)
	}
}
