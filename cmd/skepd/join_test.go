package main

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/controlplane/jointoken"
	"github.com/skep-io/skep/controlplane/servers"
)

// ask asks for what a server gets, as a skepd with --join does.
func (g *group) ask(token string, m *member) (*skepv1.ServerJoinResponse, error) {
	ctx, cancel := context.WithTimeout(g.t.Context(), patience)
	defer cancel()
	return servers.Ask(ctx, g.url(g.servers["a"]), token, skepv1.ServerJoinRequest{
		Name: m.name, URL: g.url(m), PeerURL: "https://" + net.JoinHostPort(m.address, "2380"),
	})
}

// The keys of the cluster go to nobody but a holder of a token for servers that still counts, and to one server for each token.
func TestOnlyATokenForServersLetsOneJoin(t *testing.T) {
	g := newGroup(t)
	a := g.servers["a"]
	b := g.add("b")
	firstNodes, err := os.ReadFile(filepath.Join(a.dir, "join-token"))
	if err != nil {
		t.Fatal(err)
	}
	for what, token := range map[string]string{
		"a token for nodes":      strings.TrimSpace(string(firstNodes)),
		"one that has expired":   g.serverToken(func(t *jointoken.Token) { t.Expires = time.Now().Add(-time.Second) }),
		"one that never ends":    g.serverToken(func(t *jointoken.Token) { t.Expires = time.Time{} }),
		"one that ends too late": g.serverToken(func(t *jointoken.Token) { t.Expires = time.Now().Add(jointoken.MaxServerTTL * 2) }),
		"another secret": func() string {
			text := g.serverToken(nil)
			return text[:len(text)-4] + "aaaa"
		}(),
	} {
		if answer, err := g.ask(token, b); err == nil || !strings.Contains(err.Error(), "skep token create --server") {
			t.Errorf("%s: %v, %v", what, answer != nil, err)
		}
	}
	// The hash is what the authority is known by: a server of another cluster gets no token.
	token := g.serverToken(nil)
	forged := strings.Replace(token, ".", ".0000", 1)
	forged = forged[:len("skep2.")+32] + forged[len("skep2.")+36:]
	if _, err := g.ask(forged, b); err == nil || !strings.Contains(err.Error(), "is not the cluster of this token") {
		t.Errorf("with the hash of another authority: %v", err)
	}
	// A certificate does not count, not even the administrator's.
	for what, request := range map[string]func() error{
		"the administrator": func() error {
			return g.client(a).CoreV1().RESTClient().Post().AbsPath(skepv1.PathServers).Body([]byte(`{"name":"b"}`)).Do(t.Context()).Error()
		},
	} {
		if err := request(); err == nil || !strings.Contains(err.Error(), "token") {
			t.Errorf("%s: %v", what, err)
		}
	}
	// No token for servers makes a node.
	url := g.url(a) + skepv1.PathJoin
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(`{"nodeName":"n"}`))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	blind := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	response, err := blind.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(response.Body)
	response.Body.Close()
	if response.StatusCode != http.StatusUnauthorized {
		t.Errorf("a token for servers at %s: %s %s", url, response.Status, body)
	}

	answer, err := g.ask(token, b)
	if err != nil || len(answer.CAKey) == 0 || len(answer.PeerCAKey) == 0 {
		t.Fatalf("with a token for servers: %v", err)
	}
	// From then on it is that server's alone.
	if _, err := g.ask(token, g.add("c")); err == nil || !strings.Contains(err.Error(), "for one server only") {
		t.Errorf("a second server with the same token: %v", err)
	}
}

// A join that is killed at any point can be repeated, and can be withdrawn; meanwhile no other server joins, and the cluster works.
func TestInterruptedJoins(t *testing.T) {
	g := newGroup(t)
	a := g.servers["a"]
	b := g.add("b")
	token := g.serverToken(nil)
	first, err := g.ask(token, b) // and was killed before it stored anything
	if err != nil {
		t.Fatal(err)
	}
	again, err := g.ask(token, b)
	if err != nil || again.MemberID != first.MemberID {
		t.Fatalf("asked again, b is member %v, and was %v (%v)", again, first.MemberID, err)
	}
	g.mustPut(a, "while-b-joins")
	c := g.add("c")
	if _, err := g.ask(g.serverToken(nil), c); err == nil || !strings.Contains(err.Error(), "one at a time") || !strings.Contains(err.Error(), "skep server remove "+first.MemberID) {
		t.Errorf("c, while b joins: %v", err)
	}
	if list := g.list(a); list[first.MemberID].Role != "joining" {
		t.Errorf("the servers are %+v", list)
	}
	if err := g.remove(a, first.MemberID); err != nil {
		t.Fatalf("b is not withdrawn: %v", err)
	}
	// Killed at the moments that a join goes through, on a fast machine also after b became the second of two voters, without which a
	// writes nothing; the last start ends it.
	args := []string{"--join", g.url(a), "--token", token}
	for _, after := range []time.Duration{150 * time.Millisecond, 300 * time.Millisecond, 500 * time.Millisecond, 800 * time.Millisecond} {
		p := g.launch(b, args...)
		time.Sleep(after) // the moment of the kill, not a wait for a state
		_ = p.end(t, syscall.SIGKILL)
	}
	g.start(b, args...)
	g.mustPut(a, "after-the-kills")
	g.mustHave(b, "while-b-joins", "after-the-kills")
	g.mustPut(b, "through-b")
	if list := g.list(b); len(list) != 2 || !list["b"].Ready {
		t.Errorf("the servers are %+v", list)
	}

	// The same name, or the same address, is refused while there is such a server.
	double := &member{name: "b", address: "127.77.0.9", dir: t.TempDir()}
	if last := g.fails(double, "--join", g.url(a), "--token", g.serverToken(nil)); !strings.Contains(last, "there is a server of that name") || !strings.Contains(last, "skep server remove b") {
		t.Errorf("a second b says %q", last)
	}
	c.address = b.address
	if _, err := g.ask(g.serverToken(nil), c); err == nil || !strings.Contains(err.Error(), "is that of server \"b\" already") {
		t.Errorf("c at the address of b: %v", err)
	}
}

// Nobody but the members' authority's certificates opens etcd's port for members: not the administrator's, nor the API server's.
func TestPeerPort(t *testing.T) {
	g := newGroup(t)
	a := g.servers["a"]
	address := net.JoinHostPort(a.address, "2380")
	if conn, err := net.Dial("tcp", address); err == nil {
		conn.Close()
		t.Errorf("%s is open though there is only one server", address)
	}
	if _, err := g.ask(g.serverToken(nil), g.add("b")); err != nil {
		t.Fatal(err)
	}
	get := func(pair string) error {
		config := &tls.Config{InsecureSkipVerify: true}
		if pair != "" {
			certificate, err := tls.LoadX509KeyPair(filepath.Join(a.dir, "pki", pair+".crt"), filepath.Join(a.dir, "pki", pair+".key"))
			if err != nil {
				t.Fatal(err)
			}
			config.Certificates = []tls.Certificate{certificate}
		}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: config}, Timeout: patience}
		response, err := client.Get("https://" + address + "/members")
		if err == nil {
			response.Body.Close()
		}
		return err
	}
	for _, pair := range []string{"", "admin", "apiserver", "apiserver-agent-client"} {
		if err := get(pair); err == nil {
			t.Errorf("the port answers to %q", pair)
		}
	}
	if err := get("etcd-peer"); err != nil {
		t.Errorf("the port does not answer to a member: %v", err)
	}
}
