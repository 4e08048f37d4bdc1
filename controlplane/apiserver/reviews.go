package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"slices"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/skep-io/skep/controlplane/identity"
)

// authenticatedGroup is what every client with a valid certificate belongs to, as Kubernetes names it.
const authenticatedGroup = "system:authenticated"

// selfReviews are the reviews that a client may request about itself: who am I, and what may I do. They are answered and not stored.
// Everybody may request them.
var selfReviews = []selfReview{
	{authenticationv1.SchemeGroupVersion, whoAmI, "selfsubjectreview"},
	{authorizationv1.SchemeGroupVersion, mayI, "selfsubjectaccessreview"},
	{authorizationv1.SchemeGroupVersion, whatMayI, "selfsubjectrulesreview"},
}

// The kinds of the reviews.
const (
	whoAmI   = "SelfSubjectReview"
	mayI     = "SelfSubjectAccessReview"
	whatMayI = "SelfSubjectRulesReview"
)

type selfReview struct {
	group          schema.GroupVersion
	kind, singular string
}

func (r *selfReview) resource() string { return r.singular + "s" }

// selfReviewOf returns the review that a target names, or nil if it names none.
func selfReviewOf(t target) *selfReview {
	i := slices.IndexFunc(selfReviews, func(r selfReview) bool { return t.resourceVersion() == r.group.WithResource(r.resource()) })
	if i < 0 || t.namespace != "" || t.name != "" {
		return nil
	}
	return &selfReviews[i]
}

func (s *Server) serveSelfReview(w http.ResponseWriter, c *call, review *selfReview) error {
	return s.only(w, c, map[string]handler{http.MethodPost: func(w http.ResponseWriter, c *call) error {
		o, err := negotiate(c.Request, c.query, false, false)
		if err != nil {
			return err
		}
		options, err := createOptions(c)
		if err != nil {
			return err
		}
		body, err := readBody(c.Request)
		if err != nil {
			return err
		}
		read := func(into runtime.Object) error {
			return decodeBody(w, c.Header.Get("Content-Type"), body, review.group.WithKind(review.kind), into, fieldValidation(options.FieldValidation))
		}
		var answer runtime.Object
		switch review.kind {
		case whoAmI:
			answer, err = reviewSelf(c.user, read)
		case mayI:
			answer, err = s.reviewAccess(c.Context(), c.user, read)
		case whatMayI:
			answer, err = reviewRules(c.user, read)
		}
		if err != nil {
			return err
		}
		writeObject(w, c.Request, o, http.StatusCreated, answer)
		return nil
	}})
}

// reviewSelf answers with the client's own user.
func reviewSelf(u user.Info, read func(runtime.Object) error) (runtime.Object, error) {
	review := &authenticationv1.SelfSubjectReview{}
	if err := read(review); err != nil {
		return nil, err
	}
	groups := slices.Clone(u.GetGroups())
	if !slices.Contains(groups, authenticatedGroup) {
		groups = append(groups, authenticatedGroup)
	}
	review.Status.UserInfo = authenticationv1.UserInfo{Username: u.GetName(), Groups: groups}
	return review, nil
}

// reviewAccess says whether the client may do what the review describes. It decides as authorize does for such a request.
func (s *Server) reviewAccess(ctx context.Context, u user.Info, read func(runtime.Object) error) (runtime.Object, error) {
	review := &authorizationv1.SelfSubjectAccessReview{}
	if err := read(review); err != nil {
		return nil, err
	}
	r, path := review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes
	a := authorizer.AttributesRecord{User: u}
	switch {
	case (r == nil) == (path == nil):
		return nil, apierrors.NewInvalid(review.GroupVersionKind().GroupKind(), "", field.ErrorList{field.Invalid(field.NewPath("spec", "resourceAttributes"),
			r, "exactly one of nonResourceAttributes or resourceAttributes must be specified")})
	case r != nil:
		asked := target{group: r.Group, version: r.Version, namespace: r.Namespace, resource: r.Resource, name: r.Name, subresource: r.Subresource}
		a = asked.attributes(u, r.Verb)
		a.FieldSelectorRequirements, a.FieldSelectorParsingErr = fieldRequirements(rawFieldSelector(r.FieldSelector))
	default:
		a.Verb, a.Path = path.Verb, path.Path
	}
	if err := s.authorize(ctx, a); err != nil {
		review.Status.Reason = err.Error()
	} else {
		review.Status.Allowed = true
	}
	return review, nil
}

// rawFieldSelector writes the requirements of a review as a request would.
func rawFieldSelector(selector *authorizationv1.FieldSelectorAttributes) string {
	if selector == nil {
		return ""
	}
	raw := selector.RawSelector
	for _, r := range selector.Requirements {
		if r.Operator != metav1.FieldSelectorOpIn || len(r.Values) != 1 {
			continue // leaves the selection wider, and what may be done is no more
		}
		if raw != "" {
			raw += ","
		}
		raw += r.Key + "=" + r.Values[0]
	}
	return raw
}

// reviewRules lists what the client may do.
func reviewRules(u user.Info, read func(runtime.Object) error) (runtime.Object, error) {
	review := &authorizationv1.SelfSubjectRulesReview{}
	if err := read(review); err != nil {
		return nil, err
	}
	if review.Spec.Namespace == "" {
		return nil, apierrors.NewBadRequest("no namespace on request")
	}
	all := []string{"*"}
	review.Status = authorizationv1.SubjectRulesReviewStatus{
		ResourceRules:    []authorizationv1.ResourceRule{},
		NonResourceRules: []authorizationv1.NonResourceRule{{Verbs: []string{"get"}, NonResourceURLs: discoveryRules}},
	}
	for i := range selfReviews {
		r := &selfReviews[i]
		review.Status.ResourceRules = append(review.Status.ResourceRules,
			authorizationv1.ResourceRule{Verbs: []string{"create"}, APIGroups: []string{r.group.Group}, Resources: []string{r.resource()}})
	}
	switch {
	case identity.Master(u):
		review.Status.ResourceRules = append(review.Status.ResourceRules, authorizationv1.ResourceRule{Verbs: all, APIGroups: all, Resources: all})
		review.Status.NonResourceRules = append(review.Status.NonResourceRules, authorizationv1.NonResourceRule{Verbs: all, NonResourceURLs: all})
	case identity.Node(u) != "":
		review.Status.Incomplete = true
		review.Status.EvaluationError = fmt.Sprintf("what node '%s' may do depends on the pods bound to it, which rules cannot express", identity.Node(u))
	}
	return review, nil
}
