package pod_test

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/agent/runtime"
	"github.com/skep-io/skep/agent/runtime/runtimetest"
)

func (c *cluster) expectEvents(t *testing.T, events ...string) {
	t.Helper()
	for _, want := range events {
		runtimetest.Eventually(t, want, func() bool { return c.hasEvent(want) })
	}
}

func TestPodRuns(t *testing.T) {
	c := newCluster(t, nil)
	c.create(newPod("web", nil))
	p := c.await("web", "ready", isReady)
	if p.Status.Phase != corev1.PodRunning || p.Status.PodIP != "10.244.7.1" || p.Status.HostIP != "192.0.2.1" {
		t.Errorf("status %+v", p.Status)
	}
	cs := p.Status.ContainerStatuses[0]
	if !cs.Ready || cs.Started == nil || !*cs.Started || cs.State.Running == nil || !strings.HasPrefix(cs.ContainerID, "containerd://") || cs.Image != testImage {
		t.Errorf("container status %+v", cs)
	}
	for _, condition := range []corev1.PodConditionType{corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.ContainersReady, corev1.PodScheduled} {
		if conditionOf(p, condition).Status != corev1.ConditionTrue {
			t.Errorf("condition %s is %+v", condition, conditionOf(p, condition))
		}
	}
	c.expectEvents(t,
		`Normal Pulled Container image "skep.test/busybox:1" already present on machine and can be accessed by the pod`,
		"Normal Created Container created", "Normal Started Container started")
}

func conditionOf(p *corev1.Pod, kind corev1.PodConditionType) corev1.PodCondition {
	for _, c := range p.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return corev1.PodCondition{}
}

func TestCrashLoop(t *testing.T) {
	c := newCluster(t, nil)
	c.create(newPod("crash", func(s *corev1.PodSpec) {
		s.Containers[0] = container("main", "echo -n why > /dev/termination-log; exit 4")
	}))
	p := c.await("crash", "crash loop", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Waiting != nil &&
			p.Status.ContainerStatuses[0].State.Waiting.Reason == "CrashLoopBackOff"
	})
	cs := p.Status.ContainerStatuses[0]
	if want := "back-off 10s restarting failed container=main pod=crash_default(uid-crash)"; cs.State.Waiting.Message != want {
		t.Errorf("message %q, want %q", cs.State.Waiting.Message, want)
	}
	last := cs.LastTerminationState.Terminated
	if cs.RestartCount != 1 || last == nil || last.ExitCode != 4 || last.Reason != "Error" || last.Message != "why" || last.StartedAt.IsZero() || last.FinishedAt.IsZero() {
		t.Errorf("restarts %d, last %+v", cs.RestartCount, last)
	}
	if p.Status.Phase != corev1.PodRunning {
		t.Errorf("phase %s, want Running as long as it is restarted", p.Status.Phase)
	}
	c.expectEvents(t, "Warning BackOff Back-off restarting failed container main in pod crash_default(uid-crash)")
}

func TestRunToCompletion(t *testing.T) {
	c := newCluster(t, nil)
	for name, test := range map[string]struct {
		script string
		policy corev1.RestartPolicy
		phase  corev1.PodPhase
		reason string
	}{
		"ok":     {"exit 0", corev1.RestartPolicyNever, corev1.PodSucceeded, "PodCompleted"},
		"bad":    {"exit 3", corev1.RestartPolicyNever, corev1.PodFailed, "PodFailed"},
		"onfail": {"exit 0", corev1.RestartPolicyOnFailure, corev1.PodSucceeded, "PodCompleted"},
	} {
		c.create(newPod(name, func(s *corev1.PodSpec) {
			s.Containers[0], s.RestartPolicy = container("main", test.script), test.policy
		}))
		p := c.await(name, "an end", func(p *corev1.Pod) bool { return p.Status.Phase == test.phase })
		if got := conditionOf(p, corev1.PodReady); got.Reason != test.reason || got.Status != corev1.ConditionFalse {
			t.Errorf("%s: condition Ready %+v, want reason %s", name, got, test.reason)
		}
		runtimetest.Eventually(t, "network given back", func() bool {
			return c.network.Attachments()["uid-"+name].HostInterface == "" && len(c.network.Attachments()) == 0
		})
	}
}

func TestInitContainers(t *testing.T) {
	c := newCluster(t, nil)
	always := corev1.ContainerRestartPolicyAlways
	shared := corev1.VolumeMount{Name: "shared", MountPath: "/shared"}
	c.create(newPod("init", func(s *corev1.PodSpec) {
		s.Volumes = []corev1.Volume{{Name: "shared", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		first, sidecar, second := container("first", "echo first >> /shared/order"), container("sidecar", "sleep 1000"), container("second", "echo second >> /shared/order")
		sidecar.RestartPolicy = &always
		main := container("main", "echo main >> /shared/order; cat /shared/order > /dev/termination-log")
		for _, x := range []*corev1.Container{&first, &second, &main} {
			x.VolumeMounts = []corev1.VolumeMount{shared}
		}
		s.InitContainers, s.Containers, s.RestartPolicy = []corev1.Container{first, sidecar, second}, []corev1.Container{main}, corev1.RestartPolicyNever
	}))
	p := c.await("init", "success", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
	if got := p.Status.ContainerStatuses[0].State.Terminated.Message; got != "first\nsecond\nmain\n" {
		t.Errorf("order %q", got)
	}
	c.await("init", "the sidecar's end", func(p *corev1.Pod) bool { return p.Status.InitContainerStatuses[1].State.Terminated != nil })

	c.create(newPod("initbad", func(s *corev1.PodSpec) {
		s.InitContainers, s.RestartPolicy = []corev1.Container{container("first", "exit 9")}, corev1.RestartPolicyNever
	}))
	p = c.await("initbad", "failure", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if w := p.Status.ContainerStatuses[0].State.Waiting; w == nil || w.Reason != "PodInitializing" {
		t.Errorf("main container %+v", p.Status.ContainerStatuses[0].State)
	}
}

func TestContainersThatDoNotStart(t *testing.T) {
	c := newCluster(t, nil)
	for name, test := range map[string]struct {
		change  func(*corev1.Container)
		reason  string
		message string
	}{
		"never":   {func(c *corev1.Container) { c.Image, c.ImagePullPolicy = "skep.test/absent:1", corev1.PullNever }, "ErrImageNeverPull", `Container image "skep.test/absent:1" is not present with pull policy of Never`},
		"badname": {func(c *corev1.Container) { c.Image = "Not An Image" }, "InvalidImageName", "invalid reference format"},
		"nopull":  {func(c *corev1.Container) { c.Image = "127.0.0.1:1/absent:1" }, "ErrImagePull", "connection refused"},
		"nocmd":   {func(c *corev1.Container) { c.Command = []string{"/no/such/command"} }, "RunContainerError", "no such file or directory"},
		"nocfg": {func(c *corev1.Container) {
			c.EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "absent"}}}}
		}, "CreateContainerConfigError", `configmaps "absent" not found`},
	} {
		c.create(newPod(name, func(s *corev1.PodSpec) { test.change(&s.Containers[0]) }))
		p := c.await(name, test.reason, func(p *corev1.Pod) bool {
			return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Waiting != nil && p.Status.ContainerStatuses[0].State.Waiting.Reason == test.reason
		})
		if got := p.Status.ContainerStatuses[0].State.Waiting.Message; !strings.Contains(got, test.message) {
			t.Errorf("%s: message %q lacks %q", name, got, test.message)
		}
		if p.Status.Phase != corev1.PodPending {
			t.Errorf("%s: phase %s", name, p.Status.Phase)
		}
	}
	p := c.await("nopull", "back-off", func(p *corev1.Pod) bool {
		return p.Status.ContainerStatuses[0].State.Waiting.Reason == "ImagePullBackOff"
	})
	if got := p.Status.ContainerStatuses[0].State.Waiting.Message; !strings.HasPrefix(got, `Back-off pulling image "127.0.0.1:1/absent:1": ErrImagePull: `) {
		t.Errorf("message %q", got)
	}
	c.expectEvents(t, `Normal Pulling Pulling image "127.0.0.1:1/absent:1"`, "Warning Failed Error: ErrImagePull", `Normal BackOff Back-off pulling image "127.0.0.1:1/absent:1"`)

	// The missing object is created: the pod starts without waiting for a timer.
	if _, err := c.client.CoreV1().ConfigMaps("default").Create(context.Background(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "absent"}, Data: map[string]string{"A": "b"},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.await("nocfg", "ready", isReady)
}

func TestDeadProcessIsWithdrawnAndReplaced(t *testing.T) {
	c := newCluster(t, nil)
	c.create(newPod("web", nil))
	c.await("web", "ready", isReady)
	running, _, err := c.pods.Find("default", "web", "main")
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := syscall.Kill(running.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p := c.await("web", "restart", func(p *corev1.Pod) bool { return isReady(p) && p.Status.ContainerStatuses[0].RestartCount == 1 })
	t.Logf("replaced and Running %v after the kill", time.Since(began))
	if got := p.Status.ContainerStatuses[0].LastTerminationState.Terminated; got == nil || got.ExitCode != 137 || got.ContainerID != "containerd://"+running.ID {
		t.Errorf("last state %+v", got)
	}
	c.plane.mu.Lock()
	defer c.plane.mu.Unlock()
	if c.plane.times != 1 || len(c.plane.withdrawn) != 0 {
		t.Errorf("withdrawn %d times, still out: %v", c.plane.times, c.plane.withdrawn)
	}
}

func TestProbes(t *testing.T) {
	c := newCluster(t, nil)
	exec := func(script string) *corev1.Probe {
		return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", script}}}, PeriodSeconds: 1, FailureThreshold: 1, TimeoutSeconds: 5}
	}
	c.create(newPod("ready", func(s *corev1.PodSpec) { s.Containers[0].ReadinessProbe = exec("ls /tmp-ready") }))
	c.await("ready", "running", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
	c.expectEvents(t, "Warning Unhealthy Readiness probe failed: ls: /tmp-ready: No such file or directory\n")
	if isReady(c.get("ready")) {
		t.Error("ready although the probe fails")
	}
	running, _, err := c.pods.Find("default", "ready", "")
	if err != nil {
		t.Fatal(err)
	}
	touch := func(script string) {
		t.Helper()
		if code, err := c.node.Exec(context.Background(), running.ID, []string{"sh", "-c", script}, runtime.ExecOptions{}); err != nil || code != 0 {
			t.Fatal(code, err)
		}
	}
	touch("echo > /tmp-ready")
	c.await("ready", "ready", isReady)
	touch("busybox rm /tmp-ready")
	c.await("ready", "unready", func(p *corev1.Pod) bool { return !isReady(p) })
	c.plane.mu.Lock()
	if len(c.plane.withdrawn) != 1 {
		t.Errorf("an unready pod's address is still in the maps")
	}
	c.plane.mu.Unlock()

	c.create(newPod("live", func(s *corev1.PodSpec) {
		s.Containers[0].LivenessProbe = exec("exit 1")
		s.Containers[0].StartupProbe = exec("true")
	}))
	c.await("live", "restart", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].RestartCount >= 1
	})
	c.expectEvents(t, "Normal Killing Container main failed liveness probe, will be restarted")

	counts := func(name string) map[string]float64 {
		t.Helper()
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(append(c.pods.ProbeMetrics(), c.pods.Metrics())...)
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		values := map[string]float64{}
		for _, family := range families {
			if family.GetName() != name {
				continue
			}
			for _, m := range family.GetMetric() {
				key := ""
				for _, l := range m.GetLabel() {
					if l.GetName() != "pod_uid" {
						key += l.GetValue() + " "
					}
				}
				values[key] += m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
		return values
	}
	probes := counts("prober_probe_total")
	for _, key := range []string{"main default ready Readiness failed ", "main default ready Readiness successful ", "main default live Liveness failed ", "main default live Startup successful "} {
		if probes[key] == 0 {
			t.Errorf("no probe is counted as %q: %v", key, probes)
		}
	}
	if took := counts("prober_probe_duration_seconds"); took["main default ready Readiness "] == 0 {
		t.Errorf("durations: %v", took)
	}
	if started := counts("kubelet_pod_start_duration_seconds")[""]; started != 2 {
		t.Errorf("%v starts of pods are counted, want 2", started)
	}
	if err := c.client.CoreV1().Pods("default").Delete(context.Background(), "ready", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
		t.Fatal(err)
	}
	runtimetest.Eventually(t, "the end of the pod's series", func() bool {
		return counts("prober_probe_total")["main default ready Readiness failed "] == 0 && counts("prober_probe_duration_seconds")["main default ready Readiness "] == 0
	})
}

func TestEnvironmentAndNetworkFiles(t *testing.T) {
	c := newCluster(t, nil)
	ctx := context.Background()
	for _, obj := range []*corev1.Service{
		{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "my-db"}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.1.1", Ports: []corev1.ServicePort{{Name: "sql", Port: 5432, Protocol: corev1.ProtocolTCP}}}},
		{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "hidden"}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.1.2", Ports: []corev1.ServicePort{{Port: 1}}}},
	} {
		if _, err := c.client.CoreV1().Services(obj.Namespace).Create(ctx, obj, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.client.CoreV1().Secrets("default").Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}, Data: map[string][]byte{"key": []byte("hush")},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.restartAgent(func() {}) // services are known before the pod comes
	c.create(newPod("env", func(s *corev1.PodSpec) {
		s.RestartPolicy = corev1.RestartPolicyNever
		s.HostAliases = []corev1.HostAlias{{IP: "192.0.2.9", Hostnames: []string{"alias"}}}
		main := container("main", "")
		main.Command = []string{"sh", "-c", "exec > /dev/termination-log; echo $(GREETING) $IP $SECRET $NAME $MY_DB_SERVICE_HOST $MY_DB_SERVICE_PORT_SQL $MY_DB_PORT_5432_TCP_ADDR $HIDDEN_SERVICE_HOST; cat /etc/resolv.conf; cat /etc/hosts; hostname"}
		main.Env = []corev1.EnvVar{
			{Name: "WORLD", Value: "world"}, {Name: "GREETING", Value: "hello-$(WORLD)-$$(WORLD)-$(UNSET)"},
			{Name: "IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
			{Name: "NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
			{Name: "SECRET", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}, Key: "key"}}},
		}
		main.Command[2] = strings.ReplaceAll(main.Command[2], "$(GREETING)", `"$GREETING"`)
		s.Containers[0] = main
	}))
	p := c.await("env", "the end", func(p *corev1.Pod) bool {
		return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	})
	got := p.Status.ContainerStatuses[0].State.Terminated.Message
	for _, want := range []string{
		"hello-world-$(WORLD)-$(UNSET) 10.244.7.1 hush env 10.96.1.1 5432 10.96.1.1\n",
		"search default.svc.cluster.local svc.cluster.local cluster.local", "nameserver 10.96.0.10\n", "options ndots:5\n",
		"10.244.7.1\tenv\n", "192.0.2.9\talias\n", "\nenv\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("output lacks %q:\n%s", want, got)
		}
	}
}

func contains(list []string, s string) bool {
	for _, have := range list {
		if have == s {
			return true
		}
	}
	return false
}

func TestVolumes(t *testing.T) {
	c := newCluster(t, nil)
	ctx := context.Background()
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "cfg"}, Data: map[string]string{"a": "one"}}
	if _, err := c.client.CoreV1().ConfigMaps("default").Create(ctx, cm, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.create(newPod("vols", func(s *corev1.PodSpec) {
		s.Volumes = []corev1.Volume{
			{Name: "cfg", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cfg"}}}},
			{Name: "mem", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
			{Name: "info", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{{Path: "in/name", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}}},
		}
		s.Containers[0].VolumeMounts = []corev1.VolumeMount{
			{Name: "cfg", MountPath: "/cfg", ReadOnly: true}, {Name: "cfg", MountPath: "/one", SubPath: "a"},
			{Name: "mem", MountPath: "/mem"}, {Name: "mem", MountPath: "/sub", SubPath: "x/y"}, {Name: "info", MountPath: "/info"},
		}
	}))
	c.await("vols", "ready", isReady)
	running, _, err := c.pods.Find("default", "vols", "")
	if err != nil {
		t.Fatal(err)
	}
	read := func(script string) string {
		var b strings.Builder
		code, err := c.node.Exec(ctx, running.ID, []string{"sh", "-c", script}, runtime.ExecOptions{Stdout: &b, Stderr: &b})
		return fmt.Sprintf("%s%d %v", b.String(), code, err)
	}
	if got := read("cat /cfg/a /one /info/in/name; echo x > /sub/file; cat /mem/x/y/file"); got != "oneonevolsx\n0 <nil>" {
		t.Errorf("volumes hold %q", got)
	}
	if got := read("echo no > /cfg/b"); got != "sh: can't create /cfg/b: Read-only file system\n1 <nil>" {
		t.Errorf("writing to a read-only volume: %q", got)
	}
	cm.Data = map[string]string{"a": "two", "b": "new"}
	if _, err := c.client.CoreV1().ConfigMaps("default").Update(ctx, cm, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	runtimetest.Eventually(t, "the update in the volume", func() bool { return read("cat /cfg/a /cfg/b") == "twonew0 <nil>" })
}
