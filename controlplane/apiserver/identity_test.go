package apiserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/http"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/user"
)

// An authenticator is one value in a list. A certificate takes precedence over other credentials of a request, unknown credentials get a
// 401, and an accepted token is not forwarded with the request.
func TestAuthenticatorsAreAList(t *testing.T) {
	tokens := authenticator.TokenFunc(func(_ context.Context, token string) (*authenticator.Response, bool, error) {
		switch token {
		case "known":
			return &authenticator.Response{User: &user.DefaultInfo{Name: "system:serviceaccount:default:web"}}, true, nil
		case "broken":
			return nil, false, errors.New("the token is broken")
		}
		return nil, false, nil
	})
	withTokens := &Server{authenticator: authenticators([]authenticator.Request{bearertoken.New(tokens)})}
	alone := &Server{authenticator: authenticators(nil)}
	verified := &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{{Subject: pkix.Name{CommonName: "skep:admin", Organization: []string{user.SystemPrivilegedGroup}}}}}}
	unverified := &tls.ConnectionState{PeerCertificates: verified.VerifiedChains[0]}
	for _, test := range []struct {
		server *Server
		tls    *tls.ConnectionState
		token  string
		want   string
	}{
		{alone, verified, "", "skep:admin"},
		{alone, unverified, "", ""},
		{alone, nil, "known", ""},
		{withTokens, verified, "", "skep:admin"},
		{withTokens, verified, "broken", "skep:admin"},
		{withTokens, verified, "known", "skep:admin"},
		{withTokens, nil, "known", "system:serviceaccount:default:web"},
		{withTokens, unverified, "known", "system:serviceaccount:default:web"},
		{withTokens, nil, "unknown", ""},
		{withTokens, nil, "broken", ""},
		{withTokens, nil, "", ""},
	} {
		r := &http.Request{Header: http.Header{}, TLS: test.tls}
		if test.token != "" {
			r.Header.Set("Authorization", "Bearer "+test.token)
		}
		u, err := test.server.authenticate(r)
		if u.GetName() != test.want || (err == nil) != (test.want != "") || err != nil && !apierrors.IsUnauthorized(err) {
			t.Errorf("certificate %v, token %q: %q, %v, want %q", test.tls == verified, test.token, u.GetName(), err, test.want)
		}
		if test.want != "" && test.want != "skep:admin" && r.Header.Get("Authorization") != "" {
			t.Errorf("token %q is still in the request", test.token)
		}
	}
}
