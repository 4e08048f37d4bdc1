package apiserver

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

func TestSelfReview(t *testing.T) {
	agentConfig, _ := shared.node(t, "review-1")
	agent, err := kubernetes.NewForConfig(agentConfig)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		client *kubernetes.Clientset
		want   authenticationv1.UserInfo
	}{
		"admin": {shared.client, authenticationv1.UserInfo{Username: "skep:admin", Groups: []string{"system:masters", "system:authenticated"}}},
		"agent": {agent, authenticationv1.UserInfo{Username: "system:node:review-1", Groups: []string{"system:nodes", "system:authenticated"}}},
	} {
		review, err := test.client.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got := review.Status.UserInfo; got.Username != test.want.Username || !slices.Equal(got.Groups, test.want.Groups) {
			t.Errorf("%s is %+v, want %+v", name, got, test.want)
		}
	}
	if response, _ := shared.raw(t, shared.anonymous(), "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", nil, "{}"); response.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a certificate: %s", response.Status)
	}
}

// A review gives the same answer for a request as authorization.
func TestSelfAccessReview(t *testing.T) {
	agentConfig, _ := shared.node(t, "review-1")
	agent, err := kubernetes.NewForConfig(agentConfig)
	if err != nil {
		t.Fatal(err)
	}
	type (
		of   = authorizationv1.ResourceAttributes
		path = authorizationv1.NonResourceAttributes
	)
	own := &authorizationv1.FieldSelectorAttributes{Requirements: []metav1.FieldSelectorRequirement{
		{Key: "spec.nodeName", Operator: metav1.FieldSelectorOpIn, Values: []string{"review-1"}}}}
	for _, test := range []struct {
		spec         authorizationv1.SelfSubjectAccessReviewSpec
		admin, agent bool
	}{
		{authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &of{Verb: "delete", Resource: "pods", Namespace: "default"}}, true, false},
		{authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &of{Verb: "list", Version: "v1", Resource: "services"}}, true, true},
		{authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &of{Verb: "list", Resource: "pods"}}, true, false},
		{authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &of{Verb: "list", Resource: "pods", FieldSelector: own}}, true, true},
		{authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &of{Verb: "*", Group: "*", Resource: "*"}}, true, false},
		{authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &of{Verb: "patch", Resource: "nodes", Subresource: "status", Name: "review-1"}}, true, true},
		{authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &of{Verb: "patch", Resource: "nodes", Subresource: "status", Name: "review-2"}}, true, false},
		{authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &of{
			Verb: "create", Group: "authorization.k8s.io", Version: "v1", Resource: "selfsubjectaccessreviews"}}, true, true},
		{authorizationv1.SelfSubjectAccessReviewSpec{NonResourceAttributes: &path{Verb: "get", Path: "/version"}}, true, true},
		{authorizationv1.SelfSubjectAccessReviewSpec{NonResourceAttributes: &path{Verb: "get", Path: "/metrics"}}, true, false},
	} {
		for name, client := range map[string]*kubernetes.Clientset{"admin": shared.client, "agent": agent} {
			want := test.admin
			if name == "agent" {
				want = test.agent
			}
			review, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(),
				&authorizationv1.SelfSubjectAccessReview{Spec: test.spec}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if review.Status.Allowed != want || (!want && !strings.Contains(review.Status.Reason, "system:node:review-1")) {
				t.Errorf("%s may %+v: %+v, want %v", name, test.spec, review.Status, want)
			}
		}
	}
	_, err = shared.client.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), &authorizationv1.SelfSubjectAccessReview{}, metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "exactly one of nonResourceAttributes or resourceAttributes must be specified") {
		t.Errorf("a review of nothing: %v", err)
	}
}

func TestKubectlAuth(t *testing.T) {
	for _, step := range []struct {
		args string
		want []string
	}{
		{"auth whoami", []string{"skep:admin", "[system:masters system:authenticated]"}},
		{"auth can-i create pods", []string{"yes\n"}},
		{"auth whoami --as=bob --as-group=crew", []string{"bob", "[crew system:authenticated]"}},
		{"auth can-i create pods --as=bob", []string{"no"}},
		{"auth can-i create pods --as=bob --as-group=system:masters", []string{"yes\n"}},
		{"auth can-i get /metrics", []string{"yes\n"}},
		{"auth can-i --list", []string{"*.*", "selfsubjectaccessreviews.authorization.k8s.io", "[/livez/*]"}},
		{"api-resources -o name --verbs=create", []string{"selfsubjectreviews.authentication.k8s.io\n"}},
	} {
		out, err := kubectl(t, "", strings.Fields(step.args)...)
		if no := slices.Equal(step.want, []string{"no"}); (err != nil) != no {
			t.Errorf("kubectl %s: %v\n%s", step.args, err, out)
		}
		for _, want := range step.want {
			if !strings.Contains(out, want) {
				t.Errorf("kubectl %s lacks %q:\n%s", step.args, want, out)
			}
		}
	}
}
