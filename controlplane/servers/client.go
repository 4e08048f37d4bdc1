package servers

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/backoff"
	"github.com/skep-io/skep/controlplane/jointoken"
	"github.com/skep-io/skep/controlplane/pki"
)

const (
	joinTimeout                  = 30 * time.Second
	joinRetryFirst, joinRetryMax = 500 * time.Millisecond, 5 * time.Second
	maxAnswer                    = 4 << 20
)

// refusedError is an answer that another attempt would not change.
type refusedError struct{ message string }

func (e *refusedError) Error() string { return e.message }

// Ask asks a server of the cluster to admit this one, until it answers. The authority's certificate comes over an unverified connection
// and is accepted only if its hash is the token's; the token and the keys travel over a connection verified by it.
func Ask(ctx context.Context, server, token string, request skepv1.ServerJoinRequest) (answer *skepv1.ServerJoinResponse, err error) {
	text, err := jointoken.Parse(token)
	if err != nil {
		return nil, fmt.Errorf("--token: %w (for a server, with --server)", err)
	}
	if _, err := endpoint(server); err != nil {
		return nil, fmt.Errorf("--join %q is not the URL of a server: give https://ADDR:6443", server)
	}
	retry := backoff.Retry{
		First: joinRetryFirst, Last: joinRetryMax, Attrs: []any{"server", server},
		Failing: "The cluster is not joined yet; trying again", Working: "The cluster is joined",
		Final: func(err error) bool { return errors.As(err, new(*refusedError)) },
	}
	err = retry.Do(ctx, func(ctx context.Context) (err error) {
		answer, err = ask(ctx, server, text, request)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("join the cluster of %s: %w", server, err)
	}
	return answer, nil
}

func ask(ctx context.Context, server string, token jointoken.Text, request skepv1.ServerJoinRequest) (*skepv1.ServerJoinResponse, error) {
	blind := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12} //nolint:gosec // the hash in the token is compared instead
	ca, err := call(ctx, blind, http.MethodGet, server+skepv1.PathCA, "", nil)
	if err != nil {
		return nil, err
	}
	if hash, err := jointoken.Hash(ca); err != nil || hash != token.CAHash {
		return nil, &refusedError{fmt.Sprintf("%s is not the cluster of this token: its certificate authority is another", server)}
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, &refusedError{fmt.Sprintf("%s sends an authority that cannot be read", server)}
	}
	body, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	verified := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12, VerifyConnection: pki.VerifyServer}
	data, err := call(ctx, verified, http.MethodPost, server+skepv1.PathServers, token.String(), body)
	if err != nil {
		return nil, err
	}
	answer := &skepv1.ServerJoinResponse{}
	if err := json.Unmarshal(data, answer); err != nil {
		return nil, fmt.Errorf("unreadable answer: %w", err)
	}
	return answer, nil
}

func call(ctx context.Context, config *tls.Config, method, url, token string, body []byte) ([]byte, error) {
	client := &http.Client{Timeout: joinTimeout, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if response.StatusCode < 300 {
		return data, nil
	}
	message := strings.TrimSpace(string(data))
	var status metav1.Status
	if json.Unmarshal(data, &status) == nil && status.Message != "" {
		message = status.Message
	}
	if response.StatusCode >= 400 && response.StatusCode < 500 && response.StatusCode != http.StatusTooManyRequests {
		return nil, &refusedError{message}
	}
	return nil, fmt.Errorf("%s answers %s: %s", url, response.Status, message)
}
