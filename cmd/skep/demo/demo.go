// Package demo shows on a running local cluster what Skep does, with the
// cluster's real parts, and measures it: `make up` ends with it, and a test runs
// it. Its output is for people.
//
// It uses the cluster as a user can: YAML from docs/examples, the API, exec, and
// the virtual hosts' power and cables. It changes only what it creates.
package demo

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/skep-io/skep/cmd/skep/cluster"
	"github.com/skep-io/skep/docs/examples"
)

// Options say which cluster, and where its image is.
type Options struct {
	Dir   string // the cluster's state folder
	Image string // the echo image's archive
	Skep  string // how the reader calls skep
	Out   io.Writer
}

const (
	replicas    = 3
	connections = 30
	namespace   = corev1.NamespaceDefault
	// patience is for one step of a healthy cluster on a slow machine.
	patience = 60 * time.Second
)

// demo is one run.
type demo struct {
	cluster *cluster.Cluster
	client  kubernetes.Interface
	config  *rest.Config
	view    *view
	out     io.Writer
	image   string
	skep    string
}

// Run goes through the five points and returns the first that fails.
func Run(ctx context.Context, o Options) error {
	c, err := cluster.Load(o.Dir)
	if err != nil {
		return err
	}
	d := &demo{cluster: c, out: o.Out, image: o.Image, skep: cmp.Or(o.Skep, "skep")}
	if d.config, err = c.RESTConfig(); err != nil {
		return err
	}
	if d.client, err = kubernetes.NewForConfig(d.config); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if d.view, err = watchCluster(ctx, d.client); err != nil {
		return err
	}
	for i, point := range []struct {
		title string
		run   func(context.Context) error
	}{
		{"Three pods of an echo server, and a service over them", d.createPods},
		{"Thirty connections through the service, by its name", d.connect},
		{"Kill one container's process", d.killContainer},
		{"Cut one host off the network, then heal it", d.cutHost},
	} {
		fmt.Fprintf(d.out, "\n%d. %s\n", i+1, point.title)
		if err := point.run(ctx); err != nil {
			return fmt.Errorf("point %d failed: %w", i+1, err)
		}
	}
	d.tellHowToGoOn()
	return nil
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out, "   "+format+"\n", args...) }

// createPods is point 1.
func (d *demo) createPods(ctx context.Context) error {
	nodes, err := d.cluster.Nodes()
	if err != nil {
		return err
	}
	var names []string
	for _, node := range nodes {
		names = append(names, node.Name)
	}
	begin := time.Now()
	open := func() (io.ReadCloser, error) { return os.Open(d.image) }
	if err := cluster.LoadImage(ctx, d.client, names, open, nil); err != nil {
		return fmt.Errorf("load %s: %w", d.image, err)
	}
	d.say("image %s loaded onto %d hosts in %s", filepath.Base(d.image), len(names), since(begin))
	begin = time.Now()
	for _, file := range []string{"echo.yaml", "client.yaml"} {
		manifest, err := examples.Files.ReadFile(file)
		if err != nil {
			return err
		}
		if err := d.cluster.Apply(ctx, manifest); err != nil {
			return fmt.Errorf("apply docs/examples/%s: %w", file, err)
		}
	}
	if err := d.view.await(ctx, patience, "the pods to be ready", func() (bool, string) {
		ready := len(d.view.ready("app=echo")) == replicas && len(d.view.ready("app=client")) == 1
		return ready, d.view.describe("app in (echo,client)")
	}); err != nil {
		return err
	}
	d.say("docs/examples/echo.yaml and client.yaml: all ready %s after they were created", since(begin))
	for _, pod := range d.view.ready("app=echo") {
		d.say("  %-12s %-14s on %s", pod.Name, pod.Status.PodIP, pod.Spec.NodeName)
	}
	return nil
}

// connect is point 2.
func (d *demo) connect(ctx context.Context) error {
	if err := d.awaitBackends(ctx, d.view.ready("app=echo")); err != nil {
		return err
	}
	var out strings.Builder
	err := d.exec(ctx, nil, &out, "/echo", "client", "--count", fmt.Sprint(connections), "echo")
	answers, tally := splitAnswers(out.String())
	for _, line := range tally {
		d.say("%s", line)
	}
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out.String())
	}
	if len(answers) != connections {
		return fmt.Errorf("%d answers, want %d:\n%s", len(answers), connections, out.String())
	}
	for i := range answers {
		if i >= replicas && answers[i] != answers[i-replicas] || i > 0 && answers[i] == answers[i-1] {
			return fmt.Errorf("connection %d was not answered in turn:\n%s", i+1, out.String())
		}
	}
	d.say("answered in turn: %s, and again from the first", strings.Join(answers[:replicas], ", "))
	return nil
}

// splitAnswers parts the client's numbered lines, of which it returns the pods,
// from the others.
func splitAnswers(out string) (pods, others []string) {
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		var n int
		_, err := fmt.Sscan(line, &n)
		if err == nil && len(fields) == 4 && n == len(pods)+1 {
			pods = append(pods, fields[1])
			continue
		}
		others = append(others, strings.TrimRight(line, "\n"))
	}
	return pods, others
}

// tellHowToGoOn is point 5.
func (d *demo) tellHowToGoOn() {
	which := ""
	if d.cluster.Name != cluster.DefaultName {
		which = " --name " + d.cluster.Name
	}
	fmt.Fprintf(d.out, `
5. The cluster is yours. kubectl and all that speaks its API work; so does skep, which has kubectl's verbs:

   export KUBECONFIG=%[1]s
   %[2]s get pods -o wide
   %[2]s exec client -- /echo client --count 9 echo
   %[2]s node kill node2%[3]s    # watch with '%[2]s get pods -w'; '%[2]s node start node2%[3]s' boots it again

   '%[2]s down%[3]s' removes it.
`, d.cluster.Kubeconfig(), d.skep, which)
}

func since(begin time.Time) string { return span(time.Since(begin)) }

// span prints a time as people say it.
func span(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", d.Seconds()*1000)
	case d < time.Second:
		return fmt.Sprintf("%.0f ms", d.Seconds()*1000)
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}
