package install

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/skep-io/skep/cmd/skep/cluster"
)

// checkAnswers looks at what the page's client printed.
func (in *installation) checkAnswers(out string) {
	in.Helper()
	if !strings.Contains(out, "tally 10/10/10, 0 failed") {
		in.Errorf("the service does not answer in turn:\n%s", out)
	}
	for _, n := range in.nodes {
		if !strings.Contains(out, n.Name) {
			in.Errorf("no pod on %s has answered:\n%s", n.Name, out)
		}
	}
}

// checkNodes wants every node Ready, and no others.
func (in *installation) checkNodes() {
	in.Helper()
	out := run(in.T, in.server, "skep get nodes --no-headers")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != len(in.nodes) {
		in.Errorf("%d nodes, want %d:\n%s", len(lines), len(in.nodes), out)
	}
	for _, line := range lines {
		if fields := strings.Fields(line); len(fields) < 2 || fields[1] != "Ready" {
			in.Errorf("not Ready: %s", line)
		}
	}
}

// checkUnits lets systemd itself read the units, with the programs that they name in place.
func (in *installation) checkUnits() {
	in.Helper()
	for unit, n := range map[string]*cluster.Node{"skepd.service": in.server, "skep-agent.service": in.nodes[0]} {
		out, err := try(n, "systemd-analyze verify "+filepath.Join(unitDir, unit))
		run(in.T, n, "rm -r /run/systemd") // which it makes
		if err != nil || strings.Contains(out, unit) {
			in.Errorf("systemd-analyze verify %s: %v\n%s", unit, err, out)
		}
	}
}

// undisturbed wants the pods' processes and an open connection between two
// nodes to outlive what f does.
func (in *installation) undisturbed(f func()) {
	in.Helper()
	addr := strings.TrimSpace(run(in.T, in.server, fmt.Sprintf(
		"skep get pods -l app=echo --field-selector spec.nodeName=%s -o jsonpath='{.items[0].status.podIP}'", in.nodes[len(in.nodes)-1].Name)))
	var conn net.Conn
	if err := in.nodes[0].InNetwork(func() (err error) {
		conn, err = net.DialTimeout("tcp", net.JoinHostPort(addr, "7000"), 5*time.Second)
		return err
	}); err != nil {
		in.Fatal(err)
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	in.exchange(conn, answers, "before")
	before := map[string]string{}
	for _, n := range in.nodes {
		pods := in.podProcesses(n)
		if len(pods) == 0 {
			in.Fatalf("%s runs no pods", n.Name)
		}
		maps.Copy(before, pods)
	}
	agents := in.agents()

	f()

	for i, pid := range in.agents() {
		if pid == agents[i] {
			in.Errorf("%s: skep-agent was not restarted", in.nodes[i].Name)
		}
	}
	after := map[string]string{}
	for _, n := range in.nodes {
		maps.Copy(after, in.podProcesses(n))
	}
	if !maps.Equal(before, after) {
		in.Errorf("the restart has disturbed pods:\nbefore %v\nafter  %v", before, after)
	}
	in.exchange(conn, answers, "after")
	in.checkAnswers(run(in.T, in.server, "skep wait --for=condition=Ready node --all --timeout=60s && skep exec client -- /echo client --count 30 echo"))
}

// crashAgents kills the nodes' agents and returns when their units have brought them back.
func (in *installation) crashAgents() {
	in.Helper()
	for i, pid := range in.agents() {
		run(in.T, in.nodes[i], "kill -9 "+pid)
		in.eventually("skep-agent starts again after its death", func() error {
			out, err := try(in.nodes[i], "systemctl is-active skep-agent && systemctl show -p MainPID --value skep-agent")
			if err == nil && out == pid {
				err = errors.New("it is not dead yet")
			}
			return err
		})
		// The node is called Ready throughout: its lease outlives such a gap.
		in.eventually("skep-agent answers again after its death", func() error {
			_, err := try(in.server, "skep get --raw /api/v1/nodes/"+in.nodes[i].Name+"/proxy/healthz")
			return err
		})
	}
}

// reboot cuts a host's power and starts it again. By then it needs no token any more, as the page says.
func (in *installation) reboot(n *cluster.Node) {
	in.Helper()
	run(in.T, n, "sed -i /SKEP_TOKEN/d /etc/default/skep-agent")
	if err := errors.Join(n.Kill(in.Context()), n.Start(in.Context())); err != nil {
		in.Fatal(err)
	}
	in.awaitStandIn(n)
	in.copyFolders(n)
	in.eventually("skep-agent starts at boot", func() error {
		_, err := try(n, "systemctl is-active skep-agent")
		return err
	})
	in.eventually("the service has its pods back after a reboot", func() error {
		out, err := try(in.server, "skep exec client -- /echo client --count 30 echo")
		if err == nil && !(strings.Contains(out, n.Name) && strings.Contains(out, "10/10/10, 0 failed")) {
			err = errors.New(out)
		}
		return err
	})
}

// eventually tries until there is no error.
func (in *installation) eventually(what string, attempt func() error) {
	in.Helper()
	ctx, cancel := context.WithTimeout(in.Context(), time.Minute)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := attempt()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			in.Fatalf("%s: not within a minute: %v", what, err)
		case <-ticker.C:
		}
	}
}

// exchange wants a line that is sent on an open connection to come back.
func (in *installation) exchange(conn net.Conn, answers *bufio.Reader, line string) {
	in.Helper()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		in.Fatal(err)
	}
	if _, err := fmt.Fprintln(conn, line); err != nil {
		in.Fatal(err)
	}
	for answer := ""; !strings.Contains(answer, line); {
		var err error
		if answer, err = answers.ReadString('\n'); err != nil {
			in.Fatalf("open connection: %v", err)
		}
	}
}

// agents are the nodes' skep-agent processes.
func (in *installation) agents() []string {
	in.Helper()
	var pids []string
	for _, n := range in.nodes {
		pids = append(pids, run(in.T, n, "systemctl show -p MainPID --value skep-agent"))
	}
	return pids
}

// podProcesses are the processes below the cgroup of pods: cgroup -> pids.
func (in *installation) podProcesses(n *cluster.Node) map[string]string {
	in.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(filepath.Join(n.CgroupPath(), "skep", "kubepods"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Name() != "cgroup.procs" {
			return err
		}
		pids, err := os.ReadFile(path)
		if len(pids) > 0 {
			found[filepath.Dir(path)] = strings.ReplaceAll(strings.TrimSpace(string(pids)), "\n", " ")
		}
		return err
	})
	if err != nil {
		in.Fatal(err)
	}
	return found
}
