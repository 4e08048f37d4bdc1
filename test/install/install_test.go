package install

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skep-io/skep/cmd/skep/cluster"
)

// Sections of the page at which the test looks for more than that its commands succeed.
const (
	checkSection     = "5. Check that it works"
	upgradeSection   = "Upgrade"
	removeSection    = "Remove a node"
	uninstallSection = "Uninstall everything"
)

// patience bounds one block of commands.
const patience = 3 * time.Minute

// installation is three bare hosts on the way to a cluster.
type installation struct {
	*testing.T
	all    []*cluster.Node
	server *cluster.Node
	nodes  []*cluster.Node   // that are in the cluster, or will be
	values map[string]string // what a reader fills in
}

func TestInstallByHand(t *testing.T) {
	t.Run("server apart", func(t *testing.T) { installByHand(t, 1) })
	t.Run("server is a node too", func(t *testing.T) { installByHand(t, 0) })
}

// installByHand goes through the whole page on three hosts, of which the nodes
// begin with the one of that index.
func installByHand(t *testing.T, firstNode int) {
	steps := readDocument(t)
	in := newInstallation(t, firstNode)
	machine := machineFiles(t)
	before := map[string][]string{}
	for _, host := range in.all {
		before[host.Name] = inventory(t, host)
	}
	sections := []string{}
	for _, s := range steps {
		if !slices.Contains(sections, s.section) {
			sections = append(sections, s.section)
		}
	}
	for _, section := range []string{checkSection, upgradeSection, removeSection, uninstallSection} {
		if !slices.Contains(sections, section) {
			t.Errorf("install.md has no commands in a section %q", section)
		}
	}
	for _, section := range sections {
		steps := slices.DeleteFunc(slices.Clone(steps), func(s step) bool { return s.section != section || s.skip != "" })
		switch section {
		case upgradeSection:
			in.undisturbed(func() { in.doAll(steps) })
			in.undisturbed(func() { in.crashAgents() })
			in.reboot(in.nodes[len(in.nodes)-1])
		case removeSection:
			for _, n := range slices.Backward(in.nodes) {
				in.values["NODE"] = n.Name
				in.doAll(steps)
			}
		default:
			in.doAll(steps)
		}
		if section == checkSection {
			in.checkNodes()
			in.checkUnits()
		}
	}
	if written := more(machine, machineFiles(t)); len(written) > 0 {
		t.Errorf("commands on a host have written to the machine: %v", written)
	}
	for _, host := range in.all {
		if left := more(before[host.Name], inventory(t, host)); len(left) > 0 {
			t.Errorf("%s: uninstalling leaves behind:\n%s", host.Name, strings.Join(left, "\n"))
		}
	}
}

func newInstallation(t *testing.T, firstNode int) *installation {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("install-%d-%d", os.Getpid(), firstNode)
	dir := filepath.Join(t.TempDir(), name)
	t.Cleanup(func() {
		if err := cluster.Down(context.Background(), name, dir, t.Output()); err != nil {
			t.Error(err)
		}
	})
	c, err := cluster.Up(t.Context(), cluster.Options{
		Name: name, Dir: dir, Nodes: 3, Progress: t.Output(),
		Bin: cluster.Binaries{Init: []string{self, "node-init"}}, Bare: []string{self, "stand-in"},
	})
	if err != nil {
		t.Fatal(err)
	}
	nodes, err := c.Nodes()
	if err != nil {
		t.Fatal(err)
	}
	in := &installation{
		T: t, all: nodes, server: nodes[0], nodes: nodes[firstNode:],
		values: map[string]string{"SERVER": nodes[0].Addr.String()},
	}
	for _, n := range nodes {
		in.awaitStandIn(n)
		in.copyFolders(n)
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("%s at the end:\n%s", n.Name, run(t, n, "tail -n 30 /run/stand-in/*.log 2>&1 || true"))
			}
		})
	}
	return in
}

func (in *installation) awaitStandIn(n *cluster.Node) {
	in.Helper()
	socket, err := n.HostPath(standInSocket())
	if err != nil {
		in.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(in.Context(), 10*time.Second)
	defer cancel()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
			return
		}
		select {
		case <-ctx.Done():
			log, _ := os.ReadFile(n.LogPath())
			in.Fatalf("%s: the stand-in for systemd does not start: %v\n%s", n.Name, err, log)
		case <-ticker.C:
		}
	}
}

// copyFolders does what section 1 asks for, by links instead of copies.
func (in *installation) copyFolders(n *cluster.Node) {
	in.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		in.Fatal(err)
	}
	run(in.T, n, fmt.Sprintf("mkdir -p %s/skep && ln -s %s/bin %s/docs %s/skep/", home, root, root, home))
	run(in.T, n, "cd "+home+"/skep && test -x bin/skepd -a -x bin/skep-agent -a -x bin/skep -a -e bin/images/skep-dns.tar")
}

// home is root's on the hosts: the machine's own would be shared with them.
const home = "/run/home"

// run runs a script on the host and fails the test if it fails.
func run(t *testing.T, n *cluster.Node, script string) string {
	t.Helper()
	out, err := try(n, script)
	if err != nil {
		t.Fatalf("%s: %v: %s\n%s", n.Name, err, script, out)
	}
	return out
}

func try(n *cluster.Node, script string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var out bytes.Buffer
	err := n.Exec(ctx, cluster.ExecOptions{Stdout: &out, Stderr: &out, Env: []string{
		"HOME=" + home, "KUBECONFIG=", "LC_ALL=C",
		"PATH=" + standInDir + "/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	}}, "sh", "-euc", script)
	return out.String(), err
}

// hosts are those that a block is for.
func (in *installation) hosts(s step) []*cluster.Node {
	switch s.on {
	case "node":
		return in.nodes
	case "leaving":
		for _, n := range in.nodes {
			if n.Name == in.values["NODE"] {
				return []*cluster.Node{n}
			}
		}
		in.Fatalf("%s: no node %q is left", s, in.values["NODE"])
	}
	return []*cluster.Node{in.server} // which the cluster is administered from, too
}

var joinToken = regexp.MustCompile(`skep2\.[0-9a-f]+\.[0-9a-z]+\.[0-9a-z]+`)

func (in *installation) doAll(steps []step) {
	in.Helper()
	for _, s := range steps {
		in.do(s)
	}
}

// do runs a block as a reader would: with the values filled in, in the folder of section 1.
func (in *installation) do(s step) {
	in.Helper()
	if s.values != nil {
		for _, name := range s.values {
			if in.values[name] == "" {
				in.Fatalf("%s: nothing on the page has told the value of %s so far", s, name)
			}
		}
		return
	}
	var script strings.Builder
	for name, value := range in.values {
		fmt.Fprintf(&script, "%s='%s'\n", name, value)
	}
	script.WriteString("cd ~/skep\n" + s.commands)
	for _, host := range in.hosts(s) {
		begin := time.Now()
		out, err := try(host, script.String())
		in.Logf("%s: %s, %.1f s\n%s", s, host.Name, time.Since(begin).Seconds(), out)
		if err != nil {
			in.Fatalf("%s fails on %s: %v\n%s\n%s", s, host.Name, err, s.commands, out)
		}
		if token := joinToken.FindString(out); token != "" {
			in.values["TOKEN"] = token
		}
		if s.section == checkSection && strings.Contains(s.commands, "/echo client") {
			in.checkAnswers(out)
		}
	}
}
