package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/controlplane/jointoken"
)

// patience bounds how long a test waits for a state, on a busy machine too.
const patience = 90 * time.Second

// group is a control plane of several skepd, at loopback addresses of their own and one port.
type group struct {
	t       *testing.T
	port    string
	flags   []string // of all servers
	servers map[string]*member
}

type member struct {
	name, address, dir string
	process            *process
}

// newGroup starts the first server, a.
func newGroup(t *testing.T, flags ...string) *group {
	t.Helper()
	l, err := net.Listen("tcp", "0.0.0.0:0") // free at every address
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	g := &group{t: t, port: port, flags: flags, servers: map[string]*member{}}
	g.start(g.add("a"))
	return g
}

func (g *group) add(name string) *member {
	m := &member{name: name, address: fmt.Sprintf("127.77.0.%d", len(g.servers)+1), dir: g.t.TempDir()}
	g.servers[name] = m
	return m
}

func (g *group) args(m *member) []string {
	return append([]string{"--data-dir", m.dir, "--name", m.name, "--listen", net.JoinHostPort(m.address, g.port), "--log-level", "info"}, g.flags...)
}

func (g *group) start(m *member, more ...string) {
	g.t.Helper()
	m.process = run(g.t, append(g.args(m), more...)...)
}

// launch starts a server and does not wait for it.
func (g *group) launch(m *member, more ...string) *process {
	g.t.Helper()
	p := &process{cmd: exec.Command(skepd, append(g.args(m), more...)...)}
	if err := p.cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { p.end(g.t, syscall.SIGKILL) })
	return p
}

func (g *group) url(m *member) string { return "https://" + net.JoinHostPort(m.address, g.port) }

func (g *group) client(m *member) *kubernetes.Clientset { return client(g.t, m.dir) }

// serverToken makes a token for a server, as `skep token create --server` does.
func (g *group) serverToken(change func(*jointoken.Token)) string {
	g.t.Helper()
	ca, err := os.ReadFile(filepath.Join(g.servers["a"].dir, "pki", "ca.crt"))
	if err != nil {
		g.t.Fatal(err)
	}
	text, err := jointoken.New(ca)
	if err != nil {
		g.t.Fatal(err)
	}
	token := jointoken.Token{ID: text.ID, Secret: text.Secret, Server: true, Expires: time.Now().Add(jointoken.ServerTTL)}
	if change != nil {
		change(&token)
	}
	if _, err := g.client(g.servers["a"]).CoreV1().Secrets("kube-system").Create(g.t.Context(), token.Object(), metav1.CreateOptions{}); err != nil {
		g.t.Fatal(err)
	}
	return text.String()
}

// join starts a further server.
func (g *group) join(name string) *member {
	g.t.Helper()
	m := g.add(name)
	g.start(m, "--join", g.url(g.servers["a"]), "--token", g.serverToken(nil))
	return m
}

// list is what a server says of all, by name.
func (g *group) list(m *member) map[string]skepv1.Server {
	g.t.Helper()
	data, err := g.client(m).CoreV1().RESTClient().Get().AbsPath(skepv1.PathServers).DoRaw(g.t.Context())
	if err != nil {
		g.t.Fatal(err)
	}
	var list skepv1.ServerList
	if err := json.Unmarshal(data, &list); err != nil {
		g.t.Fatal(err)
	}
	servers := map[string]skepv1.Server{}
	for _, s := range list.Servers {
		servers[s.Name] = s
	}
	return servers
}

func (g *group) remove(through *member, name string) error {
	return g.client(through).CoreV1().RESTClient().Delete().AbsPath(skepv1.PathServers, name).Do(g.t.Context()).Error()
}

func configMap(name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"value": value}}
}

// put writes a ConfigMap.
func put(ctx context.Context, c kubernetes.Interface, name, value string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := c.CoreV1().ConfigMaps("default").Create(ctx, configMap(name, value), metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil // an earlier attempt was committed
	}
	return err
}

func (g *group) mustPut(m *member, name string) {
	g.t.Helper()
	g.eventually("a write through "+m.name, func() error { return put(g.t.Context(), g.client(m), name, name) })
}

// mustHave reads through one server what was written through another.
func (g *group) mustHave(m *member, names ...string) {
	g.t.Helper()
	for _, name := range names {
		if _, err := g.client(m).CoreV1().ConfigMaps("default").Get(g.t.Context(), name, metav1.GetOptions{}); err != nil {
			g.t.Errorf("through %s: %v", m.name, err)
		}
	}
}

func (g *group) eventually(what string, f func() error) {
	g.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// fails runs a skepd that is to end by itself, and returns its last line.
func (g *group) fails(m *member, more ...string) string {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, skepd, append(g.args(m), more...)...).CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err == nil || ctx.Err() != nil {
		g.t.Fatalf("skepd does not end with an error (%v):\n%s", err, text)
	}
	return text[strings.LastIndex(text, "\n")+1:]
}

// A control plane grows from one server to three and shrinks again, each by one command; nothing written is missing at any of them.
func TestServersJoinAndLeave(t *testing.T) {
	g := newGroup(t)
	a := g.servers["a"]
	g.mustPut(a, "before")
	b := g.join("b")
	g.mustHave(b, "before")
	g.mustPut(b, "two")
	g.mustHave(a, "two")
	c := g.join("c")
	g.mustPut(c, "three")
	for _, m := range g.servers {
		g.mustHave(m, "before", "two", "three")
	}
	list := g.list(b)
	leaders := 0
	for name, s := range list {
		if !s.Ready || s.Role == "joining" || s.URL != g.url(g.servers[name]) {
			t.Errorf("server %s: %+v", name, s)
		}
		if s.Role == "leader" {
			leaders++
		}
	}
	if len(list) != 3 || leaders != 1 {
		t.Errorf("the servers are %+v", list)
	}
	// Agents and cluster DNS hear of all of them.
	g.eventually("the list of servers", func() error {
		data, err := g.client(c).CoreV1().RESTClient().Get().AbsPath(skepv1.PathNetwork).DoRaw(t.Context())
		if err != nil {
			return err
		}
		var network skepv1.Network
		if err := json.Unmarshal(data, &network); err != nil {
			return err
		}
		secret, err := g.client(c).CoreV1().Secrets("kube-system").Get(t.Context(), "skep-dns-etcd", metav1.GetOptions{})
		if err != nil {
			return err
		}
		dns := strings.Split(string(secret.Data["endpoints"]), ",")
		if len(network.Servers) != 3 || !slices.Contains(network.Servers, g.url(b)) || len(dns) != 3 {
			return fmt.Errorf("agents are told %v, and cluster DNS %v", network.Servers, dns)
		}
		return nil
	})
	// Only their keys make them servers, and these are the same.
	for _, file := range []string{"ca.key", "etcd-ca.key"} {
		key, err := os.ReadFile(filepath.Join(a.dir, "pki", file))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range []*member{b, c} {
			if other, err := os.ReadFile(filepath.Join(m.dir, "pki", file)); err != nil || string(other) != string(key) {
				t.Errorf("%s of %s is another (%v)", file, m.name, err)
			}
			if info, err := os.Stat(filepath.Join(m.dir, "pki", file)); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s of %s: %v %v", file, m.name, info.Mode(), err)
			}
		}
	}
	// The tokens were for once.
	secrets, err := g.client(a).CoreV1().Secrets("kube-system").List(t.Context(), metav1.ListOptions{FieldSelector: "type=bootstrap.kubernetes.io/token"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range secrets.Items {
		if token, err := jointoken.Of(&secrets.Items[i]); err != nil || token.Server {
			t.Errorf("there still is %+v (%v)", token, err)
		}
	}

	t.Run("what would lose the quorum is refused", func(t *testing.T) {
		g.eventually("c answers", func() error {
			if !g.list(a)["c"].Ready {
				return errors.New("c is not ready")
			}
			return nil
		})
		c.process.signal(t, syscall.SIGSTOP)
		defer c.process.signal(t, syscall.SIGCONT)
		if s := g.list(a)["c"]; s.Ready || s.Message == "" {
			t.Errorf("c, which is paused, is shown as %+v", s)
		}
		if err := g.remove(a, "b"); err == nil || !strings.Contains(err.Error(), "2 servers would be left, of which 2 must work, and 1 of them do: first start c") {
			t.Errorf("the removal of b while c is paused: %v", err)
		}
	})
	t.Run("a restart needs no token", func(t *testing.T) {
		if err := b.process.end(t, syscall.SIGTERM); err != nil {
			t.Errorf("skepd ends with %v", err)
		}
		g.start(b, "--join", g.url(a), "--token", "long expired")
		g.mustHave(b, "three")
	})
	t.Run("a dead one is removed", func(t *testing.T) {
		_ = c.process.end(t, syscall.SIGKILL)
		g.mustPut(a, "without-c")
		g.eventually("the removal of c", func() error { return g.remove(a, "c") })
		if list := g.list(a); len(list) != 2 {
			t.Errorf("the servers are %+v", list)
		}
		// One that comes back after its removal says so, at once and at every start, and harms nothing.
		for range 2 {
			if last := g.fails(c); !strings.Contains(last, "removed from its cluster") || !strings.Contains(last, "--join") {
				t.Errorf("the removed server says %q", last)
			}
		}
		g.mustPut(b, "after-c")
	})
	t.Run("the last is not removed", func(t *testing.T) {
		g.eventually("the removal of a", func() error { return g.remove(b, "a") })
		g.mustPut(b, "alone")
		if err := g.remove(b, "b"); err == nil || !strings.Contains(err.Error(), "only server") {
			t.Errorf("the removal of the last one: %v", err)
		}
		g.mustHave(b, "before", "two", "three", "without-c", "after-c", "alone")
	})
}
