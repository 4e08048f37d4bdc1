package pod

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/skep-io/skep/agent/bounded"
	"github.com/skep-io/skep/agent/pod/life"
	"github.com/skep-io/skep/agent/runtime"
	"github.com/skep-io/skep/agent/sysctl"
	"github.com/skep-io/skep/agent/usage"
	"github.com/skep-io/skep/agent/volume"
	"github.com/skep-io/skep/dataplane/podnet"
)

// Network connects pods.
type Network interface {
	Attach(podID, netnsPath string, limits podnet.Bandwidth) (podnet.Attachment, error)
	Detach(podID string) error
	Attachments() map[string]podnet.Attachment
}

// Plane is the part of the service data plane that is updated on a failure before the API server is.
type Plane interface {
	WithdrawAddress(addr netip.Addr) (restored func())
}

// HostPorts forwards ports of the host to pods.
type HostPorts interface {
	SetHostPorts(pod *corev1.Pod, addrs []netip.Addr)
	DeleteHostPorts(pod *corev1.Pod)
	// HostPortTaken names a host port of the pod that the node's own programs serve; "" if there is none.
	HostPortTaken(pod *corev1.Pod) string
}

// Config is what pods need of their node.
type Config struct {
	Client    kubernetes.Interface
	NodeName  string
	NodeIPs   []netip.Addr
	Runtime   *runtime.Runtime
	Network   Network
	Plane     Plane
	Endpoints Endpoints
	HostPorts HostPorts
	// Adopted is called when adopted pods have their host ports again.
	Adopted  func()
	Recorder record.EventRecorder

	// Services of the cluster, for environment variables. Pods start once ServicesSynced is true.
	Services       corelisters.ServiceLister
	ServicesSynced cache.InformerSynced

	ClusterDNS    []netip.Addr
	ClusterDomain string
	// Allocatable is what unset limits show as in the downward API.
	Allocatable func() corev1.ResourceList
	// MemoryCapacity is the node's, in bytes; 0 if unknown.
	MemoryCapacity int64
	// Pressure is what the node is short of, as conditions of its Node object; optional.
	Pressure     func() []corev1.NodeConditionType
	PodPidsLimit int64             // processes and threads of one pod; 0: as many as all pods may have
	Sysctls      *sysctl.Allowlist // kernel parameters that pods may set; none if nil
	// MaxBackOff bounds the wait between restarts and between pulls; five
	// minutes when 0.
	MaxBackOff time.Duration
	// DiskInterval is the minimum time between measurements of a pod's disk use; 5 s when 0.
	DiskInterval time.Duration
	// Patience is the time limit of a step of a pod's start or end; two minutes when 0.
	Patience time.Duration
}

// Pods are all pods of the node.
type Pods struct {
	cfg      Config
	objects  *objects
	volumes  *volume.Volumes
	disk     *usage.Meter
	layers   layers
	quotas   usage.Quotas
	calls    bounded.Calls // of the kernel, that may hang
	metrics  *metrics
	informer cache.SharedIndexInformer

	mu      sync.Mutex
	workers map[string]*worker // by pod UID
	ctx     context.Context    // of Run
	begun   chan struct{}      // closed when ctx is set
	done    sync.WaitGroup
}

// New returns the pods of a node; nothing runs before Run.
func New(cfg Config) *Pods {
	if cfg.MaxBackOff == 0 {
		cfg.MaxBackOff = 5 * time.Minute
	}
	if cfg.Patience == 0 {
		cfg.Patience = defaultPatience
	}
	if cfg.Allocatable == nil {
		cfg.Allocatable = func() corev1.ResourceList { return nil }
	}
	p := &Pods{cfg: cfg, workers: map[string]*worker{}, begun: make(chan struct{}), metrics: newMetrics()}
	p.objects = newObjects(cfg.Client, p.objectChanged)
	p.volumes = volume.New(cfg.Runtime.PodDir, cfg.Runtime.VolumeRecordDir, p.objects, cfg.Allocatable,
		func(pod *corev1.Pod) int64 { return podLimits(pod, 0).Memory })
	p.disk = p.newDiskMeter()
	p.volumes.Patience, p.volumes.Made = cfg.Patience, p.countVolume
	p.informer = cache.NewSharedIndexInformer(podsOf(cfg.Client, cfg.NodeName), &corev1.Pod{}, 0, nil)
	return p
}

func podsOf(client kubernetes.Interface, node string) cache.ListerWatcher {
	bound := fields.OneTermEqualSelector("spec.nodeName", node).String()
	return cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (apiruntime.Object, error) {
			options.FieldSelector = bound
			return client.CoreV1().Pods(corev1.NamespaceAll).List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.FieldSelector = bound
			return client.CoreV1().Pods(corev1.NamespaceAll).Watch(ctx, options)
		},
	}, client)
}

// Run follows the API server until ctx ends. Pods keep running after it.
func (p *Pods) Run(ctx context.Context) error {
	p.mu.Lock()
	p.ctx = ctx
	p.mu.Unlock()
	close(p.begun)
	p.objects.run(ctx)
	p.cfg.Runtime.Subscribe(p.containerExited)
	registration, err := p.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { p.podChanged(obj.(*corev1.Pod)) },
		UpdateFunc: func(_, obj any) { p.podChanged(obj.(*corev1.Pod)) },
		DeleteFunc: p.podDeleted,
	})
	if err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	p.done.Add(1)
	go func() {
		defer p.done.Done()
		p.informer.Run(ctx.Done())
	}()
	p.done.Go(func() { p.measureDisk(ctx) })
	if cache.WaitForCacheSync(ctx.Done(), registration.HasSynced) {
		p.cfg.Adopted()
		p.removeOrphans()
	}
	<-ctx.Done()
	p.done.Wait()
	p.objects.wait()
	return nil
}

// Leave ends every pod in order, as if the API server had deleted it: the node was removed from the cluster, and receives no changes
// of pods any more. It returns at once, or when Run has begun.
func (p *Pods) Leave() {
	<-p.begun
	p.mu.Lock()
	workers := slices.Collect(maps.Values(p.workers))
	p.mu.Unlock()
	for _, w := range workers {
		w.post(life.PodGone{})
	}
	p.removeOrphans()
}

// HasSynced says whether the list of the API server's pods is complete.
func (p *Pods) HasSynced() bool { return p.informer.HasSynced() }

func (p *Pods) podChanged(pod *corev1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	uid := string(pod.UID)
	w, ok := p.workers[uid]
	if !ok {
		if isTerminal(pod) && pod.DeletionTimestamp == nil && len(p.containersOf(uid)) == 0 {
			return // finished earlier; nothing of it is on this node
		}
		p.shareBurstable()
		w = newWorker(p, pod)
		if attachment, ok := p.cfg.Network.Attachments()[uid]; ok && !isTerminal(pod) {
			w.setAddrs(attachment.Addrs)
		}
		p.workers[uid] = w
		p.start(w)
		return
	}
	if isTerminal(pod) {
		p.shareBurstable()
	}
	w.post(life.PodChanged{Pod: pod})
}

// start runs a worker; p.mu is held.
func (p *Pods) start(w *worker) {
	p.done.Add(1)
	go func() {
		defer p.done.Done()
		w.run(p.ctx)
		p.metrics.forget(w.ref)
		p.mu.Lock()
		if p.workers[w.uid] == w && p.ctx.Err() == nil {
			delete(p.workers, w.uid)
			p.shareBurstable()
		}
		p.mu.Unlock()
	}()
}

func (p *Pods) podDeleted(obj any) {
	if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = tombstone.Obj
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return
	}
	if w := p.worker(string(pod.UID)); w != nil {
		w.post(life.PodGone{})
	}
}

func (p *Pods) worker(uid string) *worker {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.workers[uid]
}

func (p *Pods) containersOf(uid string) []runtime.Container {
	var list []runtime.Container
	for _, c := range p.cfg.Runtime.Containers() {
		if c.PodUID == uid {
			list = append(list, c)
		}
	}
	return list
}

// containerExited is the first reaction to an exit: it removes the address from the service maps, then notifies the worker.
func (p *Pods) containerExited(c runtime.Container) {
	w := p.worker(c.PodUID)
	if w == nil {
		return
	}
	w.withdrawFor(c.Name)
	w.post(life.ContainerExited{Container: c.Name, ID: c.ID, Exit: exitOf(c)})
}

// ErrNotFound means that this node has no such pod or container.
var ErrNotFound = errors.New("not found on this node")

// Find returns the newest attempt of a container. An empty container name
// means the pod's only, or default, container.
func (p *Pods) Find(namespace, name, container string) (runtime.Container, *corev1.Pod, error) {
	obj, ok, err := p.informer.GetStore().GetByKey(namespace + "/" + name)
	if err != nil || !ok {
		return runtime.Container{}, nil, fmt.Errorf("pod %s/%s: %w", namespace, name, ErrNotFound)
	}
	pod := obj.(*corev1.Pod)
	if container == "" {
		container = pod.Annotations["kubectl.kubernetes.io/default-container"]
	}
	if container == "" && len(pod.Spec.Containers) > 0 {
		container = pod.Spec.Containers[0].Name
	}
	var newest runtime.Container
	for _, c := range p.containersOf(string(pod.UID)) {
		if c.Name == container && c.State != runtime.Created && (newest.ID == "" || c.Attempt >= newest.Attempt) {
			newest = c
		}
	}
	if newest.ID == "" {
		return runtime.Container{}, pod, fmt.Errorf("container %q in pod %q: %w", container, name, ErrNotFound)
	}
	return newest, pod, nil
}

// PodState is a pod with its containers on this node.
type PodState struct {
	Pod        *corev1.Pod // shared: do not change
	Status     corev1.PodStatus
	Containers []runtime.Container
}

// List returns every pod of the node.
func (p *Pods) List() []PodState {
	byPod := map[string][]runtime.Container{}
	for _, c := range p.cfg.Runtime.Containers() {
		byPod[c.PodUID] = append(byPod[c.PodUID], c)
	}
	var list []PodState
	for _, obj := range p.informer.GetStore().List() {
		pod := obj.(*corev1.Pod)
		state := PodState{Pod: pod, Status: pod.Status, Containers: byPod[string(pod.UID)]}
		if w := p.worker(string(pod.UID)); w != nil {
			if status := w.published(); status != nil {
				state.Status = *status
			}
		}
		list = append(list, state)
	}
	return list
}

// objectChanged notifies the pods that use a ConfigMap or Secret.
func (p *Pods) objectChanged(uids []string) {
	for _, uid := range uids {
		if w := p.worker(uid); w != nil {
			w.post(life.ObjectsChanged{})
		}
	}
}

func isTerminal(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}
