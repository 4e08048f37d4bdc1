package apiserver

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// buildKubectl builds the stock client once. SKEP_TEST_KUBECTL names another release to test with instead.
var buildKubectl = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("SKEP_TEST_KUBECTL"); path != "" {
		return path, nil
	}
	path := filepath.Join(shared.dir, "kubectl")
	output, err := exec.Command("go", "build", "-ldflags", "-X k8s.io/component-base/version.gitVersion="+kubernetesVersion,
		"-o", path, "../../test/kubectl").CombinedOutput()
	if err != nil {
		return "", &exec.Error{Name: string(output), Err: err}
	}
	return path, nil
})

// kubectl runs the stock client as the administrator and returns what it printed.
func kubectl(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	path, err := buildKubectl()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+shared.pki.KubeconfigPath(), "HOME="+shared.dir)
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	return out.String(), err
}

const controllerYAML = `
apiVersion: v1
kind: ReplicationController
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {app: web}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "web:1", ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
`

// The verbs of stock kubectl in the order of ordinary use.
func TestKubectl(t *testing.T) {
	ns := namespace(t)
	makePod(t, ns, "p", "")
	steps := []struct {
		args  string
		stdin string
		want  []string
		fails bool
	}{
		{args: "version", want: []string{"Server Version: v1.37.2+skep-test"}},
		{args: "api-resources", want: []string{"replicationcontrollers", "rc ", "endpointslices", "discovery.k8s.io/v1", "NodeMetrics"}},
		{args: "api-versions", want: []string{"coordination.k8s.io/v1", "v1\n"}},
		{args: "get --raw /readyz", want: []string{"ok"}},
		{args: "get pods", want: []string{"NAME", "READY", "STATUS", "RESTARTS", "AGE", "p ", "0/1", "Pending"}},
		{args: "get pods -o wide", want: []string{"NODE", "NOMINATED NODE", "<none>"}},
		{args: "get po p -o yaml", want: []string{"apiVersion: v1", "kind: Pod", "restartPolicy: Always"}},
		{args: "get pods -o json", want: []string{`"kind": "List"`, `"name": "p"`}},
		{args: "get pods -o jsonpath={.items[*].metadata.name}", want: []string{"p"}},
		{args: "get pods -l app=p --show-labels", want: []string{"app=p"}},
		{args: "get pods -l app=none", want: []string{"No resources found"}},
		{args: "get pods --field-selector metadata.name=p -o name", want: []string{"pod/p"}},
		{args: "get pods --field-selector spec.image=p", want: []string{"field label not supported: spec.image"}, fails: true},
		{args: "get pods --chunk-size=1 -A", want: []string{"NAMESPACE"}},
		{args: "get pod none", want: []string{`Error from server (NotFound): pods "none" not found`}, fails: true},
		{args: "get daemonsets", want: []string{`the server doesn't have a resource type "daemonsets"`}, fails: true},
		{args: "describe pod p", want: []string{"Name:             p", "Image:        i:1", "Events:"}},
		{args: "explain pod.spec.containers.image", want: []string{"FIELD: image <string>"}},
		{args: "create -f -", stdin: controllerYAML, want: []string{"replicationcontroller/web created", "service/web created"}},
		{args: "create -f -", stdin: controllerYAML, want: []string{`Error from server (AlreadyExists)`}, fails: true},
		{args: "get rc", want: []string{"DESIRED", "CURRENT", "web "}},
		{args: "get svc web", want: []string{"CLUSTER-IP", "10.96.", "80/TCP"}},
		{args: "get all", want: []string{"pod/p", "replicationcontroller/web", "service/web"}},
		{args: "scale rc web --replicas=4", want: []string{"replicationcontroller/web scaled"}},
		{args: "get rc web -o jsonpath={.spec.replicas}", want: []string{"4"}},
		{args: "label pod p tier=front", want: []string{"pod/p labeled"}},
		{args: "annotate pod p note=x", want: []string{"pod/p annotated"}},
		{args: "get pod p -o jsonpath={.metadata.labels.tier}{.metadata.annotations.note}", want: []string{"frontx"}},
		{args: `patch pod p --type=json -p [{"op":"remove","path":"/metadata/labels/tier"}]`, want: []string{"pod/p patched"}},
		{args: "expose rc web --port=8080 --name=web2", want: []string{"service/web2 exposed"}},
		{args: "apply -f -", stdin: strings.ReplaceAll(controllerYAML, "name: web", "name: two"), want: []string{"replicationcontroller/two created", "service/two created"}},
		{args: "apply -f -", stdin: strings.ReplaceAll(controllerYAML, "name: web", "name: two"), want: []string{"replicationcontroller/two unchanged", "service/two unchanged"}},
		{args: "apply -f -", stdin: strings.ReplaceAll(strings.ReplaceAll(controllerYAML, "name: web", "name: two"), "replicas: 2", "replicas: 3"),
			want: []string{"replicationcontroller/two configured"}},
		{args: "diff -f -", stdin: strings.ReplaceAll(controllerYAML, "replicas: 2", "replicas: 9"), want: []string{"replicas: 9"}, fails: true},
		{args: "create configmap c --from-literal=a=b", want: []string{"configmap/c created"}},
		{args: "create secret generic s --from-literal=a=b", want: []string{"secret/s created"}},
		{args: "get cm c -o jsonpath={.data.a}", want: []string{"b"}},
		{args: "create configmap d --from-literal=a=b --dry-run=server -o name", want: []string{"configmap/d"}},
		{args: "get cm d", want: []string{"NotFound"}, fails: true},
		{args: "apply -f -", stdin: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: e}\nspecial: 1\n", want: []string{`unknown field "special"`}, fails: true},
		{args: "apply -f - --validate=warn", stdin: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: e}\nspecial: 1\n", want: []string{`Warning: unknown field "special"`, "configmap/e created"}},
		{args: "create -f -", stdin: "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec: {containers: []}\n", want: []string{`The Pod "bad" is invalid: spec.containers: Required value`}, fails: true},
		{args: "logs p", want: []string{"does not have a host assigned"}, fails: true},
		{args: "exec p -- true", want: []string{"does not have a host assigned"}, fails: true},
		{args: "debug p --image=i:1", want: []string{"ephemeral containers are disabled for this cluster"}, fails: true},
		{args: `patch pod p --type=json -p {"op":"remove"}`, want: []string{"error decoding patch: json: cannot unmarshal object into Go value of type []apiserver.patchOperation"}, fails: true},
		{args: "wait --for=condition=Ready pod/p --timeout=1s", want: []string{"timed out waiting"}, fails: true},
		{args: "wait --for=jsonpath={.spec.replicas}=4 rc/web --timeout=10s", want: []string{"condition met"}},
		{args: "top nodes", want: []string{"metrics not available yet"}, fails: true},
		{args: "delete rc web two", want: []string{`replicationcontroller "web" deleted`}},
		{args: "delete pod p --grace-period=0 --force", want: []string{`"p" force deleted`}},
		{args: "delete svc,cm,secret --all", want: []string{`service "web2" deleted`, `configmap "c" deleted`, `secret "s" deleted`}},
		{args: "get pods", want: []string{"No resources found"}},
	}
	for _, step := range steps {
		args := append([]string{"-n", ns}, strings.Fields(step.args)...)
		got, err := kubectl(t, step.stdin, args...)
		if (err != nil) != step.fails {
			t.Errorf("kubectl %s: %v\n%s", step.args, err, got)
		}
		for _, want := range step.want {
			if !strings.Contains(got, want) {
				t.Errorf("kubectl %s prints no %q:\n%s", step.args, want, got)
			}
		}
	}
}
