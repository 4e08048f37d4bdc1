package runtime_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/skep-io/skep/agent/runtime"
	"github.com/skep-io/skep/agent/runtime/runtimetest"
)

const testImage = "skep.test/busybox:1"

func startNode(t testing.TB) *runtimetest.Node {
	n := runtimetest.Start(t)
	names, err := n.Import(context.Background(), runtimetest.Archive(t, testImage, runtimetest.Image(t, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if len(names) != 1 || names[0] != testImage {
		t.Fatalf("imported %v, want %s", names, testImage)
	}
	return n
}

func run(t testing.TB, n *runtimetest.Node, uid, name string, change func(*runtime.ContainerConfig)) runtime.Container {
	t.Helper()
	ctx := context.Background()
	sandbox, _, err := n.CreateSandbox(runtime.SandboxConfig{PodUID: uid, Hostname: "pod-" + uid})
	if err != nil {
		t.Fatal(err)
	}
	cfg := runtime.ContainerConfig{
		PodNamespace: "default", PodName: "pod", PodUID: uid, Name: name, Sandbox: sandbox,
		TerminationMessagePath: "/dev/termination-log",
		Security:               runtime.Security{AllowPrivilegeEscalation: true},
	}
	change(&cfg)
	p, err := n.Prepare(ctx, uid, testImage)
	if err != nil {
		t.Fatal(err)
	}
	c, err := n.Create(ctx, p, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = n.Runtime.Start(ctx, c.ID); err != nil {
		t.Fatal(err)
	}
	return c
}

func waitExit(t testing.TB, n *runtimetest.Node, id string) runtime.Container {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := n.WaitExit(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestContainerLife(t *testing.T) {
	n := startNode(t)
	c := run(t, n, "uid1", "main", func(c *runtime.ContainerConfig) {
		c.Command = []string{"sh", "-c", "hostname; id; echo $GREETING; echo done > /dev/termination-log; exit 3"}
		c.Env = []string{"GREETING=hello"}
	})
	got := waitExit(t, n, c.ID)
	if got.State != runtime.Exited || got.ExitCode != 3 || got.Reason != "Error" || got.Message != "done\n" {
		t.Errorf("exited as %+v", got)
	}
	runtimetest.Eventually(t, "output", func() bool { return strings.Count(n.Logs.Text(c.ID), "\n") == 3 })
	want := "pod-uid1\nuid=0(root) gid=0(root) groups=0(root),10(wheel)\nhello\n"
	if text := n.Logs.Text(c.ID); text != want {
		t.Errorf("output %q, want %q", text, want)
	}
}

func TestExec(t *testing.T) {
	n := startNode(t)
	c := run(t, n, "uid1", "main", func(c *runtime.ContainerConfig) { c.Command = []string{"sleep", "1000"} })
	var out, errOut bytes.Buffer
	code, err := n.Exec(context.Background(), c.ID, []string{"sh", "-c", "cat; echo problem >&2; exit 7"},
		runtime.ExecOptions{Stdin: strings.NewReader("input"), Stdout: &out, Stderr: &errOut})
	if err != nil || code != 7 || out.String() != "input" || errOut.String() != "problem\n" {
		t.Errorf("code %d, err %v, stdout %q, stderr %q", code, err, out.String(), errOut.String())
	}
	resize := make(chan runtime.Size)
	close(resize)
	for _, tty := range []bool{false, true} {
		if code, err := n.Exec(context.Background(), c.ID, []string{"sh", "-c", "echo; echo >&2; exit 4"}, runtime.ExecOptions{TTY: tty, Resize: resize}); err != nil || code != 4 {
			t.Errorf("without streams, terminal %v: code %d, err %v", tty, code, err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if _, err := n.Exec(ctx, c.ID, []string{"sleep", "1000"}, runtime.ExecOptions{}); err == nil {
		t.Error("a command that outlives its context did not fail")
	}
	if err := n.Stop(context.Background(), c.ID, 0); err != nil {
		t.Fatal(err)
	}
	if got := waitExit(t, n, c.ID); got.ExitCode != 137 {
		t.Errorf("exit code %d after SIGKILL, want 137", got.ExitCode)
	}
	_, err = n.Exec(context.Background(), c.ID, []string{"true"}, runtime.ExecOptions{})
	if !errors.Is(err, runtime.ErrNotRunning) || !strings.Contains(err.Error(), `container "main": container is not running: it ended with exit code 137 (Error)`) {
		t.Errorf("exec in an exited container: %v", err)
	}
}

func TestAdoption(t *testing.T) {
	n := startNode(t)
	sleeper := run(t, n, "uid1", "sleeper", func(c *runtime.ContainerConfig) { c.Command = []string{"sleep", "1000"} })
	ender := run(t, n, "uid1", "ender", func(c *runtime.ContainerConfig) {
		c.Command = []string{"sh", "-c", "trap 'exit 5' TERM; echo ready; while true; do sleep 0.01; done"}
	})
	awaitReady(t, n, ender.ID)
	half, err := n.Prepare(context.Background(), "uid2", testImage)
	if err != nil {
		t.Fatal(err)
	}
	var exited runtime.Container
	n.Disconnect()
	// The agent is away; one container ends.
	signalPid(t, ender.Pid)
	n.Connect()
	got, ok := n.Container(sleeper.ID)
	if !ok || got.State != runtime.Running || got.Pid != sleeper.Pid || !got.StartedAt.Equal(sleeper.StartedAt) {
		t.Errorf("adopted %+v, want %+v", got, sleeper)
	}
	exited = waitExit(t, n, ender.ID)
	if exited.ExitCode != 5 {
		t.Errorf("exit while away: %+v", exited)
	}
	if err := n.Discard(context.Background(), half); err == nil {
		t.Error("a root file system without a container outlived the agent")
	}
	// Its record outlives the next agent too.
	n.Disconnect()
	n.Connect()
	if got, ok := n.Container(ender.ID); !ok || got.State != runtime.Exited || got.ExitCode != 5 {
		t.Errorf("after another restart: %+v, %v", got, ok)
	}
}

func TestOOMKilled(t *testing.T) {
	n := startNode(t)
	c := run(t, n, "uid1", "main", func(c *runtime.ContainerConfig) {
		c.Command = []string{"sh", "-c", "x=a; while true; do x=$x$x; done"}
		c.Resources.MemoryLimit = 32 << 20
	})
	if got := waitExit(t, n, c.ID); got.Reason != "OOMKilled" {
		t.Errorf("exited as %+v", got)
	}
}

func TestOneShimPerPod(t *testing.T) {
	n := startNode(t)
	sleep := func(c *runtime.ContainerConfig) { c.Command = []string{"sleep", "1000"} }
	a, b := run(t, n, "uid1", "a", sleep), run(t, n, "uid1", "b", sleep)
	other := run(t, n, "uid2", "a", sleep)
	if parentOf(t, a.Pid) != parentOf(t, b.Pid) {
		t.Error("two containers of a pod have different shims")
	}
	if parentOf(t, a.Pid) == parentOf(t, other.Pid) {
		t.Error("two pods share a shim")
	}
}

func TestUsers(t *testing.T) {
	n := startNode(t)
	id := int64(1234)
	for name, test := range map[string]struct {
		security runtime.Security
		want     string
	}{
		"known uid":  {runtime.Security{RunAsUser: &id}, "uid=1234(app) gid=2345(app) groups=10(wheel),2345(app)"},
		"with group": {runtime.Security{RunAsUser: &id, RunAsGroup: &id, SupplementalGroups: []int64{77}}, "uid=1234(app) gid=1234 groups=10(wheel),77,1234"},
	} {
		t.Run(name, func(t *testing.T) {
			c := run(t, n, "uid1", strings.ReplaceAll(name, " ", "-"), func(c *runtime.ContainerConfig) {
				c.Command, c.Security = []string{"id"}, test.security
			})
			waitExit(t, n, c.ID)
			runtimetest.Eventually(t, "output", func() bool { return strings.Contains(n.Logs.Text(c.ID), "\n") })
			if got := strings.TrimSpace(n.Logs.Text(c.ID)); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	nonRoot := runtime.ContainerConfig{PodUID: "uid1", Name: "nonroot", Command: []string{"id"}, Security: runtime.Security{RunAsNonRoot: true}}
	p, err := n.Prepare(context.Background(), "uid1", testImage)
	if err != nil {
		t.Fatal(err)
	}
	_, err = n.Create(context.Background(), p, nonRoot)
	if err == nil || !strings.Contains(err.Error(), "image will run as root") {
		t.Errorf("runAsNonRoot with a root image: %v", err)
	}
}
