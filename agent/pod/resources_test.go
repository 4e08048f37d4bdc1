package pod

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/skep-io/skep/agent/cgroup"
)

func list(cpu, memory string) corev1.ResourceList {
	l := corev1.ResourceList{}
	if cpu != "" {
		l[corev1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		l[corev1.ResourceMemory] = resource.MustParse(memory)
	}
	return l
}

func wants(requests, limits corev1.ResourceList) corev1.Container {
	return corev1.Container{Name: "c", Resources: corev1.ResourceRequirements{Requests: requests, Limits: limits}}
}

func TestPodLimits(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	sidecar := wants(list("100m", "10Mi"), list("200m", "10Mi"))
	sidecar.RestartPolicy = &always
	for name, test := range map[string]struct {
		spec corev1.PodSpec
		want cgroup.Limits
	}{
		"best effort": {corev1.PodSpec{Containers: []corev1.Container{wants(nil, nil)}}, cgroup.Limits{CPUShares: 2, Pids: 9}},
		"guaranteed": {corev1.PodSpec{Containers: []corev1.Container{
			wants(list("500m", "64Mi"), list("500m", "64Mi")), wants(list("1", "1Gi"), list("1", "1Gi")),
		}}, cgroup.Limits{CPUShares: 1536, CPUQuota: 150000, CPUPeriod: 100000, Memory: 1<<30 + 64<<20, Pids: 9}},
		"one without a limit": {corev1.PodSpec{Containers: []corev1.Container{
			wants(list("100m", ""), list("200m", "64Mi")), wants(nil, list("", "64Mi")),
		}}, cgroup.Limits{CPUShares: 102, Memory: 128 << 20, Pids: 9}},
		"initialisation needs most": {corev1.PodSpec{
			InitContainers: []corev1.Container{wants(list("2", "1Gi"), list("2", "1Gi"))},
			Containers:     []corev1.Container{wants(list("1", "64Mi"), list("1500m", "64Mi"))},
		}, cgroup.Limits{CPUShares: 2048, CPUQuota: 200000, CPUPeriod: 100000, Memory: 1 << 30, Pids: 9}},
		"sidecar": {corev1.PodSpec{
			InitContainers: []corev1.Container{sidecar}, Containers: []corev1.Container{wants(list("1", "64Mi"), list("1", "64Mi"))},
		}, cgroup.Limits{CPUShares: 1126, CPUQuota: 120000, CPUPeriod: 100000, Memory: 74 << 20, Pids: 9}},
		"of the pod itself": {corev1.PodSpec{
			Resources:  &corev1.ResourceRequirements{Requests: list("1", "1Gi"), Limits: list("2", "2Gi")},
			Containers: []corev1.Container{wants(nil, nil)},
		}, cgroup.Limits{CPUShares: 1024, CPUQuota: 200000, CPUPeriod: 100000, Memory: 2 << 30, Pids: 9}},
	} {
		if got := podLimits(&corev1.Pod{Spec: test.spec}, 9); got != test.want {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
	}
}

func TestOOMScores(t *testing.T) {
	const capacity = 4 << 30
	critical, always := int32(2_000_001_000), corev1.ContainerRestartPolicyAlways
	sidecar := wants(list("", "256Mi"), nil)
	sidecar.Name, sidecar.RestartPolicy = "s", &always
	for name, test := range map[string]struct {
		spec corev1.PodSpec
		of   *corev1.Container
		want int
	}{
		"best effort": {spec: corev1.PodSpec{Containers: []corev1.Container{wants(nil, nil)}}, want: 1000},
		"guaranteed":  {spec: corev1.PodSpec{Containers: []corev1.Container{wants(list("1", "1Gi"), list("1", "1Gi"))}}, want: -997},
		"burstable":   {spec: corev1.PodSpec{Containers: []corev1.Container{wants(list("", "1Gi"), nil)}}, want: 750},
		"of all":      {spec: corev1.PodSpec{Containers: []corev1.Container{wants(list("", "4Gi"), nil)}}, want: 3},
		"of nothing":  {spec: corev1.PodSpec{Containers: []corev1.Container{wants(list("1", ""), nil)}}, want: 999},
		"node critical": {spec: corev1.PodSpec{
			Priority: &critical, PriorityClassName: "system-node-critical", Containers: []corev1.Container{wants(nil, nil)},
		}, want: -997},
		"a class of that name alone": {spec: corev1.PodSpec{PriorityClassName: "system-node-critical", Containers: []corev1.Container{wants(nil, nil)}}, want: 1000},
		"sidecar of one that requests more": {spec: corev1.PodSpec{
			InitContainers: []corev1.Container{sidecar}, Containers: []corev1.Container{wants(list("", "2Gi"), nil)},
		}, of: &sidecar, want: 500},
		"pod level": {spec: corev1.PodSpec{
			Resources:  &corev1.ResourceRequirements{Requests: list("", "2Gi")},
			Containers: []corev1.Container{wants(list("", "1Gi"), nil), wants(nil, nil)},
		}, want: 625},
	} {
		of := test.of
		if of == nil {
			of = &test.spec.Containers[0]
		}
		if got := oomScore(&corev1.Pod{Spec: test.spec}, of, capacity); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}
