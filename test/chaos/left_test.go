package chaos

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/cmd/skep/cluster"
	"github.com/skep-io/skep/test/chaos/invariant"
)

var (
	uidFormat = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	idFormat  = regexp.MustCompile(`[0-9a-f]{64}`)
)

// leavesNothingOnHosts deletes the load and checks what the hosts still have of it.
func (r *run) leavesNothingOnHosts() {
	r.Helper()
	ctx := r.Context()
	if err := r.apis[0].CoreV1().Namespaces().Delete(ctx, namespace, metav1.DeleteOptions{}); err != nil {
		r.Fatal(err)
	}
	r.until(ctx, "the namespace is gone", func() error {
		ns, err := r.apis[0].CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("it is %s: %+v", ns.Status.Phase, ns.Status.Conditions)
		}
		return err
	})
	for _, host := range r.hosts {
		r.until(ctx, "nothing is left on "+host.Name+" of pods that are gone", func() error {
			alive, addresses, err := r.living(host)
			if err != nil {
				return err
			}
			left, err := leftOn(host, alive, addresses)
			if err != nil {
				return err
			}
			return errors.Join(left...)
		})
	}
}

// living are the UIDs of a host's pods and the IDs of their containers, and the pods' own addresses.
func (r *run) living(host *cluster.Node) (alive, addresses []string, err error) {
	list, err := r.apis[0].CoreV1().Pods("").List(r.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName=" + host.Name})
	if err != nil {
		return nil, nil, err
	}
	for _, p := range list.Items {
		alive = append(alive, string(p.UID))
		for _, c := range p.Status.ContainerStatuses {
			_, id, _ := strings.Cut(c.ContainerID, "://")
			alive = append(alive, id)
		}
		if !p.Spec.HostNetwork {
			for _, ip := range p.Status.PodIPs {
				addresses = append(addresses, ip.IP)
			}
		}
	}
	return alive, addresses, nil
}

// leftOn is what a host has of pods and containers that are gone.
func leftOn(host *cluster.Node, alive, addresses []string) (left []error, err error) {
	var cgroups, mounts, folders []string
	for uid := range podCgroups(host, false) {
		cgroups = append(cgroups, uid)
	}
	power, err := host.Power()
	if err != nil {
		return nil, err
	}
	mountinfo, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", power.PID))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mountinfo)) {
		// The innermost ID names what it is for.
		point := strings.Fields(line)[4]
		if ids := idFormat.FindAllString(point, -1); len(ids) > 0 {
			mounts = append(mounts, ids[len(ids)-1])
		} else if uids := uidFormat.FindAllString(point, -1); len(uids) > 0 {
			mounts = append(mounts, uids[len(uids)-1])
		}
	}
	entries, err := os.ReadDir(filepath.Join(host.StateDir(), "pods"))
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if uid := uidFormat.FindString(entry.Name()); uid != "" {
			folders = append(folders, uid)
		}
	}
	routed, links, err := podNetwork(host)
	if err != nil {
		return nil, err
	}
	if links != len(addresses)/max(1, families(addresses)) {
		left = append(left, fmt.Errorf("there are %d interfaces of pods, for the addresses %v", links, addresses))
	}
	return slices.Concat(left,
		invariant.Left("the cgroup of pod", alive, cgroups), invariant.Left("a mount for", alive, mounts),
		invariant.Left("the folder of pod", alive, folders), invariant.Left("a route to pod address", addresses, routed)), nil
}

// families is how many addresses a pod has.
func families(addresses []string) int {
	if slices.ContainsFunc(addresses, func(a string) bool { return strings.Contains(a, ":") }) {
		return 2
	}
	return 1
}

// podNetwork are the addresses to which the host has routes of their own, and how many interfaces of pods it has.
func podNetwork(host *cluster.Node) (routed []string, links int, err error) {
	err = host.InNetwork(func() error {
		all, err := netlink.LinkList()
		if err != nil {
			return err
		}
		pods := map[int]bool{}
		for _, l := range all {
			if l.Type() == "veth" && l.Attrs().Name != "eth0" {
				pods[l.Attrs().Index] = true
			}
		}
		links = len(pods)
		routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, route := range routes {
			if route.Dst == nil || !pods[route.LinkIndex] {
				continue
			}
			if ones, bits := route.Dst.Mask.Size(); ones == bits {
				routed = append(routed, route.Dst.IP.String())
			}
		}
		return nil
	})
	return routed, links, err
}

// kernelThings are maps, programs and links that the kernel has for the cluster's hosts.
type kernelThings struct {
	maps     map[ebpf.MapID]string // where each was pinned
	programs map[ebpf.ProgramID]string
	links    map[link.ID]string
}

// note adds what the hosts have pinned.
func (k *kernelThings) note(hosts []*cluster.Node) {
	if k.maps == nil {
		k.maps, k.programs, k.links = map[ebpf.MapID]string{}, map[ebpf.ProgramID]string{}, map[link.ID]string{}
	}
	for _, host := range hosts {
		root, err := host.HostPath("/sys/fs/bpf")
		if err != nil {
			continue // it does not run
		}
		_ = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && !entry.IsDir() {
				k.pinned(path, host.Name+strings.TrimPrefix(path, root))
			}
			return nil
		})
	}
}

func (k *kernelThings) pinned(path, name string) {
	if m, err := ebpf.LoadPinnedMap(path, nil); err == nil {
		defer m.Close()
		if info, err := m.Info(); err == nil {
			if id, ok := info.ID(); ok {
				k.maps[id] = name
			}
		}
	} else if l, err := link.LoadPinnedLink(path, nil); err == nil {
		defer l.Close()
		if info, err := l.Info(); err == nil {
			k.links[info.ID], k.programs[info.Program] = name, name
		}
	}
}

// gone waits until the kernel has nothing of it any more: it frees namespaces, and what they hold, a moment after their end.
func (k *kernelThings) gone(r *run) {
	r.Helper()
	if len(k.maps) == 0 || len(k.links) == 0 {
		r.Errorf("of the hosts' kernels %d maps and %d links were seen", len(k.maps), len(k.links))
	}
	r.until(r.Context(), "the kernel has no map, program or link of the cluster", func() error {
		var left []error
		for id, name := range k.maps {
			if m, err := ebpf.NewMapFromID(id); !errors.Is(err, os.ErrNotExist) {
				left = append(left, fmt.Errorf("left behind: map %d, which was %s (%v)", id, name, err))
				m.Close()
			}
		}
		for id, name := range k.programs {
			if p, err := ebpf.NewProgramFromID(id); !errors.Is(err, os.ErrNotExist) {
				left = append(left, fmt.Errorf("left behind: program %d, whose link was %s (%v)", id, name, err))
				p.Close()
			}
		}
		for id, name := range k.links {
			if l, err := link.NewFromID(id); err == nil {
				left = append(left, fmt.Errorf("left behind: link %d, which was %s", id, name))
				l.Close()
			}
		}
		return errors.Join(left...)
	})
}

// thingsOfMachine lists what this machine has by the names of clusters of this test.
func thingsOfMachine(t *testing.T, name string) (things []string) {
	t.Helper()
	for _, pattern := range []string{"/run/netns/*", "/sys/fs/cgroup/*/*", "/sys/fs/cgroup/*"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			if strings.Contains(filepath.Base(path), name) {
				things = append(things, path)
			}
		}
	}
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mountinfo)) {
		if strings.Contains(line, name) {
			things = append(things, "mount "+strings.Fields(line)[4])
		}
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if strings.Contains(l.Attrs().Alias, name) {
			things = append(things, "interface "+l.Attrs().Name)
		}
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range processes {
		if command, err := os.ReadFile(path); err == nil && strings.Contains(string(command), "/"+name+"/") {
			things = append(things, "process "+strings.ReplaceAll(string(command), "\x00", " "))
		}
	}
	return things
}

// cleared waits until there is nothing: the kernel removes what processes held a moment after their end.
func (r *run) cleared(name string) {
	r.Helper()
	for deadline := time.Now().Add(30 * time.Second); len(thingsOfMachine(r.T, name)) > 0 && time.Now().Before(deadline); {
		time.Sleep(100 * time.Millisecond)
	}
	r.violated(invariant.Left("on this machine:", nil, thingsOfMachine(r.T, name)))
}
