package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/warning"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/connections"
	"github.com/skep-io/skep/controlplane/identity"
	"github.com/skep-io/skep/controlplane/resource"
)

// call is one request on its way through the server.
type call struct {
	*http.Request
	target
	started time.Time
	waited  time.Duration // for its turn
	user    user.Info
	verb    string
	query   url.Values
	kind    *resource.Kind
}

// attributes are what the request is authorized by.
func (c *call) attributes() authorizer.AttributesRecord {
	a := c.target.attributes(c.user, c.verb)
	a.Path = c.URL.Path
	a.FieldSelectorRequirements, a.FieldSelectorParsingErr = fieldRequirements(c.query.Get("fieldSelector"))
	return a
}

// attributes are those of a verb on the target.
func (t target) attributes(u user.Info, verb string) authorizer.AttributesRecord {
	return authorizer.AttributesRecord{
		User: u, Verb: verb, Namespace: t.namespace, APIGroup: t.group, APIVersion: t.version, Resource: t.resource, Subresource: t.subresource,
		Name: t.name, ResourceRequest: t.resource != "",
	}
}

func fieldRequirements(selector string) (fields.Requirements, error) {
	if selector == "" {
		return nil, nil
	}
	parsed, err := fields.ParseSelector(selector)
	if err != nil {
		return nil, err
	}
	return parsed.Requirements(), nil
}

// groupResource is the name in errors.
func (c *call) groupResource() schema.GroupResource { return c.resourceVersion().GroupResource() }

// serve answers a request, or returns the error to answer it with.
func (s *Server) serve(w http.ResponseWriter, c *call) error {
	c.query = c.URL.Query()
	if done, err := s.servePublic(w, c); done {
		return err
	}
	if c.URL.Path == skepv1.PathServers && c.Method == http.MethodPost {
		return s.joinServer(w, c)
	}
	var err error
	if c.user, err = s.authenticate(c.Request); err != nil {
		if c.URL.Path != skepv1.PathJoin {
			return err
		}
		c.user = stranger
	} else {
		connections.MarkKnown(c.Context())
	}
	if c.URL.Path == skepv1.PathJoin && c.Header.Get("Authorization") != "" {
		c.user = stranger // a host with a token has no other identity yet, or one that no longer counts
	}
	leave, err := s.enter(c)
	if err != nil {
		return err
	}
	defer leave()
	if c.URL.Path == skepv1.PathJoin {
		return s.join(w, c)
	}
	if c.user, err = impersonate(c.user, c.Header); err != nil {
		return err
	}
	c.Request = c.WithContext(warning.WithWarningRecorder(identity.With(c.Context(), c.user), &warnings{w: w}))
	t, isResource := parseTarget(c.URL.Path)
	c.target = t
	c.verb = verbOf(c, isResource)
	if err := s.authorize(c.Context(), c.attributes()); err != nil {
		return err
	}
	s.warnOfEnd(w, c)
	if !s.longRunning(c) {
		ctx, cancel := context.WithTimeout(c.Context(), requestTimeout)
		defer cancel()
		c.Request = c.WithContext(ctx)
		leave, err := s.admit(c)
		if err != nil {
			return err
		}
		defer leave()
	} else {
		leave, err := s.openSession(c)
		if err != nil {
			return err
		}
		defer leave()
		unlimitedTime(w)
		ctx, cancel := context.WithCancel(c.Context())
		defer cancel()
		defer context.AfterFunc(s.stopping, cancel)()
		c.Request = c.WithContext(ctx)
	}
	if !isResource {
		return s.serveDocument(w, c)
	}
	return s.serveResource(w, c)
}

// verbOf is the authorization verb of a request.
func verbOf(c *call, isResource bool) string {
	method := strings.ToLower(c.Method)
	if !isResource {
		if c.Method == http.MethodHead {
			return "get"
		}
		return method
	}
	switch c.Method {
	case http.MethodGet, http.MethodHead:
		switch {
		case c.watch || (c.name == "" && isTrue(c.query, "watch")):
			return "watch"
		case c.name == "":
			return "list"
		}
		return "get"
	case http.MethodPost:
		return "create"
	case http.MethodPut:
		return "update"
	case http.MethodDelete:
		if c.name == "" {
			return "deletecollection"
		}
	}
	return method
}

// isTrue reads a query flag as Kubernetes does: present and not 0 or false.
func isTrue(query url.Values, name string) bool {
	values, ok := query[name]
	return ok && len(values) > 0 && values[0] != "0" && !strings.EqualFold(values[0], "false")
}

// longRunning says whether a request has no time limit.
func (s *Server) longRunning(c *call) bool {
	if c.verb == "watch" {
		return true
	}
	if c.URL.Path == skepv1.PathEtcd+"snapshot" || c.URL.Path == skepv1.PathEtcd+"defragment" {
		return true // as large as the database
	}
	if c.URL.Path == skepv1.PathApplied {
		return true // it waits, and needs no seat for that
	}
	if isProfilePath(c.URL.Path) {
		return true // as long as it was asked for
	}
	switch c.subresource {
	case "exec", "attach", "portforward", "proxy":
		return true
	case "log":
		return isTrue(c.query, "follow")
	}
	return false
}

// serveResource answers what parseTarget has understood.
func (s *Server) serveResource(w http.ResponseWriter, c *call) error {
	if c.group == metricsGroup {
		return s.serveMetricsAPI(w, c)
	}
	if c.group == "" && c.version == "v1" && c.resource == "bindings" && c.namespace != "" && c.name == "" {
		return s.only(w, c, map[string]handler{http.MethodPost: s.bind})
	}
	if review := selfReviewOf(c.target); review != nil {
		return s.serveSelfReview(w, c, review)
	}
	kind, ok := s.registry.Kind(c.resourceVersion())
	if !ok || (kind.Namespaced && c.namespace == "" && c.name != "") || (!kind.Namespaced && c.namespace != "") {
		return notFound()
	}
	c.kind = kind
	if c.subresource != "" {
		return s.serveSubresource(w, c)
	}
	if c.verb == "watch" {
		return s.serveVerb(w, c, s.watchList)
	}
	if c.name == "" {
		if kind.Namespaced && c.namespace == "" && (c.Method == http.MethodPost || c.Method == http.MethodDelete) {
			return methodNotAllowed(c)
		}
		return s.only(w, c, map[string]handler{http.MethodGet: s.list, http.MethodPost: s.create, http.MethodDelete: s.deleteCollection})
	}
	return s.only(w, c, map[string]handler{http.MethodGet: s.get, http.MethodPut: s.update, http.MethodPatch: s.patch, http.MethodDelete: s.delete})
}

// handler answers a request, or returns the error to answer it with.
type handler func(w http.ResponseWriter, c *call) error

// only calls the handler of the request's method. HEAD is answered as GET, without the body.
func (s *Server) only(w http.ResponseWriter, c *call, methods map[string]handler) error {
	method := c.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	h, ok := methods[method]
	if !ok {
		return methodNotAllowed(c)
	}
	return s.serveVerb(w, c, h)
}

// serveVerb runs a handler where the kind has the verb at all.
func (s *Server) serveVerb(w http.ResponseWriter, c *call, h handler) error {
	if c.kind != nil && c.subresource == "" && !slices.Contains(c.kind.Verbs, c.verb) {
		return methodNotAllowed(c)
	}
	return h(w, c)
}

func methodNotAllowed(c *call) error {
	return apierrors.NewMethodNotSupported(c.groupResource(), c.verb)
}

// notFound is the answer for a path that names no resource. Its details are empty but not nil: clients tell a missing resource from a
// missing object by them, and kubectl debug does not check for nil.
func notFound() error {
	err := statusError(http.StatusNotFound, metav1.StatusReasonNotFound, "the server could not find the requested resource")
	err.ErrStatus.Details = &metav1.StatusDetails{}
	return err
}

// servePublic answers what needs no certificate.
func (s *Server) servePublic(w http.ResponseWriter, c *call) (done bool, err error) {
	switch path := c.URL.Path; {
	case path == "/version" || path == "/version/":
		return true, s.onlyGet(w, c, func() { writeBytes(w, c.Request, mediaJSON, http.StatusOK, s.version) })
	case isHealthPath(path):
		return true, s.onlyGet(w, c, func() { s.serveHealth(w, c) })
	case path == skepv1.PathCA:
		return true, s.onlyGet(w, c, func() { writeBytes(w, c.Request, "application/x-pem-file", http.StatusOK, s.pki.CA()) })
	}
	return false, nil
}

func (s *Server) onlyGet(_ http.ResponseWriter, c *call, answer func()) error {
	if c.Method != http.MethodGet && c.Method != http.MethodHead {
		return statusError(http.StatusMethodNotAllowed, "MethodNotAllowed", "the server does not allow this method on the requested resource")
	}
	answer()
	return nil
}

// subresources serves those subresources that are neither a part of their object nor its replicas.
var subresources = map[string]func(*Server, http.ResponseWriter, *call) error{
	"pods/binding":     (*Server).bind,
	"pods/eviction":    (*Server).evict,
	"pods/log":         (*Server).log,
	"pods/exec":        (*Server).stream,
	"pods/attach":      (*Server).stream,
	"pods/portforward": (*Server).stream,
	"pods/proxy":       (*Server).podProxy,
	"nodes/proxy":      (*Server).nodeProxy,
	"services/proxy":   (*Server).serviceProxy,
}

// serveSubresource answers …/NAME/SUBRESOURCE.
func (s *Server) serveSubresource(w http.ResponseWriter, c *call) error {
	sub, ok := c.kind.Subresource(c.subresource)
	if !ok || c.rest != "" && !sub.Path {
		return notFound()
	}
	if !sub.Path && !slices.Contains(sub.Verbs, c.verb) {
		return methodNotAllowed(c)
	}
	switch {
	case sub.Update != nil:
		return map[string]handler{"get": s.get, "update": s.update, "patch": s.patch}[c.verb](w, c)
	case sub.Scale != nil:
		return map[string]handler{"get": s.getScale, "update": s.updateScale, "patch": s.patchScale}[c.verb](w, c)
	}
	serve, ok := subresources[c.groupResource().String()+"/"+c.subresource]
	if !ok {
		return apierrors.NewInternalError(fmt.Errorf("nothing serves %s of %s", c.subresource, c.groupResource()))
	}
	return serve(s, w, c)
}
