package eviction

import (
	"maps"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func using(name string, priority int32, requests map[corev1.ResourceName]string, change func(*Pod)) Pod {
	list := corev1.ResourceList{}
	for key, value := range requests {
		list[key] = resource.MustParse(value)
	}
	p := Pod{Pod: &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			Priority: &priority, Containers: []corev1.Container{{Name: "main", Resources: corev1.ResourceRequirements{Requests: list}}},
		},
	}}
	change(&p)
	return p
}

// The order that the Kubernetes documentation of node-pressure eviction gives.
func TestRank(t *testing.T) {
	memory := func(mib int64) func(*Pod) { return func(p *Pod) { p.Memory = mib << 20 } }
	request := func(q string) map[corev1.ResourceName]string {
		return map[corev1.ResourceName]string{corev1.ResourceMemory: q}
	}
	disk := func(state, images int64) func(*Pod) {
		return func(p *Pod) { p.Disk = Disk{Amount{state, 10 * state}, Amount{images, 10 * images}} }
	}
	room := map[corev1.ResourceName]string{corev1.ResourceEphemeralStorage: "100"}
	processes := func(n int64) func(*Pod) { return func(p *Pod) { p.Processes = n } }
	inMemory := []Pod{
		using("guaranteed", 0, request("100Mi"), memory(90)),
		using("below request, important", 1000, request("1Gi"), memory(900)),
		using("above request, important", 1000, request("10Mi"), memory(500)),
		using("above request, little", 0, request("100Mi"), memory(110)),
		using("best effort", 0, nil, memory(50)),
		using("nothing known", 1000, nil, func(p *Pod) { p.NotMeasured = true }),
	}
	onDisk := []Pod{
		using("within request", 0, room, disk(50, 40)),
		using("volumes", 0, room, disk(300, 0)),
		using("layers", 0, nil, disk(0, 250)),
		using("both, important", 5, nil, disk(900, 900)),
	}
	for name, c := range map[string]struct {
		signal Signal
		own    bool
		pods   []Pod
		want   string
	}{
		"memory":             {MemoryAvailable, false, inMemory, "nothing known; best effort; above request, little; above request, important; guaranteed; below request, important"},
		"allocatable memory": {AllocatableMemory, false, inMemory, "nothing known; best effort; above request, little; above request, important; guaranteed; below request, important"},
		"disk":               {NodeFsAvailable, false, onDisk, "layers; volumes; both, important; within request"},
		"disk of state":      {NodeFsAvailable, true, onDisk, "volumes; both, important; layers; within request"},
		"disk of images":     {ImageFsAvailable, true, onDisk, "layers; both, important; within request; volumes"},
		"inodes":             {NodeFsInodesFree, false, onDisk, "volumes; layers; within request; both, important"},
		"inodes of images":   {ImageFsInodesFree, true, onDisk, "layers; within request; both, important; volumes"},
		"processes": {PIDAvailable, false, []Pod{
			using("fork bomb, important", 10, nil, processes(1000)),
			using("few", 0, nil, processes(3)), using("many", 0, nil, processes(100)),
		}, "many; few; fork bomb, important"},
	} {
		pods := append([]Pod(nil), c.pods...)
		Rank(c.signal, c.own, pods)
		var got []string
		for _, p := range pods {
			got = append(got, p.Name)
		}
		if s := strings.Join(got, "; "); s != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", name, s, c.want)
		}
	}
}

func TestExplain(t *testing.T) {
	due := parse(t, Settings{Hard: "memory.available<100Mi,nodefs.inodesFree<5%,pid.available<10"})
	o := Observations{MemoryAvailable: {50 << 20, 1 << 30}, NodeFsInodesFree: {1000, 1 << 20}, PIDAvailable: {3, 100}}
	p := using("hog", 0, map[corev1.ResourceName]string{corev1.ResourceMemory: "10Mi"}, func(p *Pod) {
		p.Memory = 200 << 20
		p.Containers = []Container{{Name: "main", Memory: 200 << 20}}
	})
	for name, c := range map[corev1.ResourceName]struct {
		message     string
		annotations map[string]string
	}{
		corev1.ResourceMemory: {
			"The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. " +
				"Container main was using 200Mi, request is 10Mi, has larger consumption of memory. ",
			map[string]string{"starved_resource": "memory", "offending_containers": "main", "offending_containers_usage": "200Mi"},
		},
		resourceInodes: {
			"The node was low on resource: inodes. Threshold quantity: 52428, available: 1k. ",
			map[string]string{"starved_resource": "inodes", "offending_containers": "", "offending_containers_usage": ""},
		},
		resourcePids: {
			"The node was low on resource: pids. Threshold quantity: 10, available: 3. ",
			map[string]string{"starved_resource": "pids", "offending_containers": "", "offending_containers_usage": ""},
		},
	} {
		message, annotations := explain(name, &p, due, o)
		if message != c.message || !maps.Equal(annotations, c.annotations) {
			t.Errorf("%s: %q, %v", name, message, annotations)
		}
	}
}
