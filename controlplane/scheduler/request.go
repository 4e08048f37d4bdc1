package scheduler

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/utils/ptr"
)

// What a container is assumed to use for scoring if it requests nothing: containers
// without requests must not make a host look idle for ever.
const (
	assumedMilliCPU = 100
	assumedMemory   = 200 << 20
)

// resources is an amount of a node's resources: millicores and bytes.
type resources struct {
	milliCPU, memory, ephemeral int64
	scalar                      map[corev1.ResourceName]int64
}

func toResources(list corev1.ResourceList) (r resources) {
	for name, q := range list {
		switch name {
		case corev1.ResourceCPU:
			r.milliCPU = q.MilliValue()
		case corev1.ResourceMemory:
			r.memory = q.Value()
		case corev1.ResourceEphemeralStorage:
			r.ephemeral = q.Value()
		case corev1.ResourcePods:
		default:
			if r.scalar == nil {
				r.scalar = map[corev1.ResourceName]int64{}
			}
			r.scalar[name] = q.Value()
		}
	}
	return r
}

// add adds sign times other.
func (r *resources) add(other *resources, sign int64) {
	r.milliCPU += sign * other.milliCPU
	r.memory += sign * other.memory
	r.ephemeral += sign * other.ephemeral
	for name, v := range other.scalar {
		if r.scalar == nil {
			r.scalar = map[corev1.ResourceName]int64{}
		}
		r.scalar[name] += sign * v
	}
}

type hostPort struct {
	protocol corev1.Protocol
	port     int32
	ip       string
}

// request is what scheduling needs of a pod, computed once.
type request struct {
	pod       *corev1.Pod
	uid       types.UID
	needs     resources
	scored    resources // needs, with an assumption where nothing is requested
	hostPorts []hostPort
	nodes     poolRules // where its node selector and required node affinity let it be; no id: everywhere
	preferred string    // the text of its preferred node affinity
	priority  int32
	deleting  bool
	classID   string
	class     *class // as found last
	profile   *profile
	shape     *shape
	claim     string // why its persistent volume claims keep it from every host
	relations
}

// newRequest reads a pod. What its class and its counts are is looked up by the cluster when they are asked for.
func newRequest(pod *corev1.Pod) *request {
	req := &request{
		pod: pod, uid: pod.UID,
		needs:     toResources(resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{UseStatusResources: true})),
		nodes:     poolFor(pod, nil, true, false),
		preferred: preferredNodes(pod),
		priority:  ptr.Deref(pod.Spec.Priority, 0),
		deleting:  pod.DeletionTimestamp != nil,
		classID:   classID(pod.Namespace, pod.Labels),
		relations: newRelations(pod),
		claim:     missingClaim(pod),
	}
	req.scored = resources{milliCPU: req.needs.milliCPU, memory: req.needs.memory}
	if req.scored.milliCPU == 0 {
		req.scored.milliCPU = assumedMilliCPU * int64(len(pod.Spec.Containers))
	}
	if req.scored.memory == 0 {
		req.scored.memory = assumedMemory * int64(len(pod.Spec.Containers))
	}
	req.hostPorts = hostPortsOf(pod)
	return req
}

// hostPortsOf lists the host ports of the containers that run as long as the pod does.
func hostPortsOf(pod *corev1.Pod) (ports []hostPort) {
	add := func(c *corev1.Container) {
		for _, p := range c.Ports {
			if p.HostPort > 0 {
				ports = append(ports, toHostPort(p))
			}
		}
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	return ports
}

func toHostPort(p corev1.ContainerPort) hostPort {
	hp := hostPort{protocol: p.Protocol, port: p.HostPort, ip: p.HostIP}
	if hp.protocol == "" {
		hp.protocol = corev1.ProtocolTCP
	}
	if hp.ip == "" || hp.ip == "::" {
		hp.ip = "0.0.0.0"
	}
	return hp
}
