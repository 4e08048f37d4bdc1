package node

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// ResourcePIDs is the name of processes in reserves; Node objects do not show them.
const ResourcePIDs corev1.ResourceName = "pid"

// Bounds are the limits of the cgroup of a node that shares its machine; -1 for no limit.
type Bounds struct{ Memory, Pids int64 }

// Capacity is the host's capacity within the bounds. Storage is that of the state folder's file
// system.
func Capacity(stateDir string, b Bounds) (corev1.ResourceList, error) {
	all, err := capacity(stateDir)
	if err != nil {
		return nil, err
	}
	if memory := all[corev1.ResourceMemory]; b.Memory >= 0 && b.Memory < memory.Value() {
		all[corev1.ResourceMemory] = *resource.NewQuantity(b.Memory, resource.BinarySI)
	}
	pids := int64(math.MaxInt64)
	for _, file := range []string{"/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"} {
		if n, err := strconv.ParseInt(firstLine(file), 10, 64); err == nil {
			pids = min(pids, n)
		}
	}
	if b.Pids >= 0 {
		pids = min(pids, b.Pids)
	}
	if pids < math.MaxInt64 {
		all[ResourcePIDs] = *resource.NewQuantity(pids, resource.DecimalSI)
	}
	return all, nil
}

// ParseReserved reads "cpu=100m,memory=256Mi", as kubelet's --kube-reserved and --system-reserved.
func ParseReserved(flag, text string) (corev1.ResourceList, error) {
	list := corev1.ResourceList{}
	for pair := range strings.SplitSeq(text, ",") {
		if pair = strings.TrimSpace(pair); pair == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return nil, fmt.Errorf("%s %q: give RESOURCE=QUANTITY, like memory=256Mi", flag, pair)
		}
		name := corev1.ResourceName(strings.TrimSpace(key))
		switch name {
		case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, ResourcePIDs:
		default:
			return nil, fmt.Errorf("%s: cannot reserve %q resource: it is cpu, memory, ephemeral-storage or pid", flag, name)
		}
		q, err := resource.ParseQuantity(strings.TrimSpace(value))
		if err != nil {
			return nil, fmt.Errorf("%s: failed to parse quantity %q for %q resource: %w", flag, value, name, err)
		}
		if q.Sign() < 0 {
			return nil, fmt.Errorf("%s: resource quantity for %q cannot be negative: %s", flag, name, value)
		}
		if _, twice := list[name]; twice {
			return nil, fmt.Errorf("%s sets %s twice: set it once", flag, name)
		}
		list[name] = q
	}
	return list, nil
}

// Subtract is a capacity less reserves, at least 0 of each resource.
func Subtract(capacity corev1.ResourceList, reserves ...corev1.ResourceList) corev1.ResourceList {
	remaining := capacity.DeepCopy()
	for _, reserve := range reserves {
		for name, q := range reserve {
			if all, ok := remaining[name]; ok {
				all.Sub(q)
				if all.Sign() < 0 {
					all.Set(0)
				}
				remaining[name] = all
			}
		}
	}
	return remaining
}

// CheckReserves refuses reserves that exceed the capacity.
func CheckReserves(capacity corev1.ResourceList, reserves ...corev1.ResourceList) error {
	var problems []string
	for name, all := range capacity {
		sum := resource.Quantity{}
		for _, reserve := range reserves {
			sum.Add(reserve[name])
		}
		if sum.Cmp(all) > 0 {
			problems = append(problems, fmt.Sprintf("Resource %q has a reservation of %s but capacity of %s. Expected capacity >= reservation.", name, &sum, &all))
		}
	}
	if len(problems) == 0 {
		return nil
	}
	slices.Sort(problems)
	return fmt.Errorf("invalid node allocatable configuration: %s Give less in --kube-reserved, --system-reserved or --eviction-hard", strings.Join(problems, " "))
}

// shown omits resources that Node objects do not show.
func shown(list corev1.ResourceList) corev1.ResourceList {
	list = list.DeepCopy()
	delete(list, ResourcePIDs)
	return list
}
