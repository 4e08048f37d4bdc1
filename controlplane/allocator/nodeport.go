package allocator

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/storage"
)

// Node ports are those of Kubernetes' default range. The lowest are reserved for services
// that ask for one, as long as others are free (KEP-3668).
const (
	FirstNodePort   = 30000
	lastNodePort    = 32767
	staticNodePorts = 86

	// nodePortPrefix is the prefix of the keys that say which service holds a port:
	// /skep/nodeports/<protocol>/<port>, the value is "namespace/name".
	nodePortPrefix = "/skep/nodeports/"
)

// nodePort is one port of one protocol at every node.
type nodePort struct {
	protocol corev1.Protocol
	number   int32
}

func (p nodePort) key() string {
	return fmt.Sprintf("%s%s/%d", nodePortPrefix, strings.ToLower(string(p.protocol)), p.number)
}

// heldNodePorts are the ports for which a service has records.
func heldNodePorts(service *corev1.Service) []nodePort {
	var held []nodePort
	if service == nil || !mayHaveNodePorts(service) {
		return nil
	}
	add := func(port nodePort) {
		if port.number != 0 && !slices.Contains(held, port) {
			held = append(held, port)
		}
	}
	for _, port := range service.Spec.Ports {
		add(nodePort{port.Protocol, port.NodePort})
	}
	if needsHealthCheckPort(service) {
		add(nodePort{corev1.ProtocolTCP, service.Spec.HealthCheckNodePort})
	}
	return held
}

func mayHaveNodePorts(service *corev1.Service) bool {
	return service.Spec.Type == corev1.ServiceTypeNodePort || service.Spec.Type == corev1.ServiceTypeLoadBalancer
}

func wantsNodePorts(service *corev1.Service) bool {
	return service.Spec.Type == corev1.ServiceTypeNodePort ||
		service.Spec.Type == corev1.ServiceTypeLoadBalancer && ptr.Deref(service.Spec.AllocateLoadBalancerNodePorts, true)
}

func needsHealthCheckPort(service *corev1.Service) bool {
	return service.Spec.Type == corev1.ServiceTypeLoadBalancer &&
		service.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// manyPorts is from how many ports on the records of a whole protocol are
// guarded together: a transaction takes no more guards than storage.MaxOps.
const manyPorts = 40

// nodePortAllocation is the allocation in one transaction. held has the ports that the
// service has, or gets in it.
type nodePortAllocation struct {
	store   storage.Interface
	tx      *resource.Tx
	service *corev1.Service
	held    []nodePort
	// snapshot holds all records at one revision, if there are many ports to look at.
	snapshot map[string]storage.KeyValue
}

func (w *work) allocateNodePorts(ctx context.Context, service, before *corev1.Service) error {
	a := nodePortAllocation{store: w.r.Store(), tx: w.tx, service: service, held: heldNodePorts(before)}
	if err := a.begin(ctx, len(service.Spec.Ports)+len(a.held)); err != nil {
		return err
	}
	if mayHaveNodePorts(service) {
		// Requested ports come first, so that they are not allocated to a port that gets any.
		for i, port := range service.Spec.Ports {
			if port.NodePort != 0 {
				path := field.NewPath("spec", "ports").Index(i).Child("nodePort")
				if err := a.allocate(ctx, path, nodePort{port.Protocol, port.NodePort}); err != nil {
					return err
				}
			}
		}
		if wantsNodePorts(service) {
			if err := a.allocateAny(ctx); err != nil {
				return err
			}
		}
		if needsHealthCheckPort(service) {
			if err := a.allocateHealthCheck(ctx); err != nil {
				return err
			}
		}
	}
	return a.release(ctx, before, heldNodePorts(service))
}

// releaseNodePorts frees the ports of a deleted service.
func (w *work) releaseNodePorts(ctx context.Context, service *corev1.Service) error {
	a := nodePortAllocation{store: w.r.Store(), tx: w.tx, service: service}
	if err := a.begin(ctx, len(service.Spec.Ports)); err != nil {
		return err
	}
	return a.release(ctx, service, nil)
}

// begin reads all records and guards them together, if there are many ports.
func (a *nodePortAllocation) begin(ctx context.Context, ports int) error {
	if ports < manyPorts || !mayHaveNodePorts(a.service) && len(a.held) == 0 {
		return nil
	}
	kvs, revision, err := a.store.List(ctx, nodePortPrefix)
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("list node ports: %w", err))
	}
	a.snapshot = make(map[string]storage.KeyValue, len(kvs))
	for _, kv := range kvs {
		a.snapshot[kv.Key] = kv
	}
	a.tx.Guards = append(a.tx.Guards, storage.Guard{Key: nodePortPrefix, ModRevision: revision, Below: true})
	return nil
}

// guard guards the record of one port, unless all are.
func (a *nodePortAllocation) guard(key string, revision int64) {
	if a.snapshot == nil {
		a.tx.Guards = append(a.tx.Guards, storage.Guard{Key: key, ModRevision: revision})
	}
}

// record returns the record of a port; it has no key if there is none.
func (a *nodePortAllocation) record(ctx context.Context, port nodePort) (storage.KeyValue, error) {
	if a.snapshot != nil {
		return a.snapshot[port.key()], nil
	}
	kv, err := a.store.Get(ctx, port.key())
	if errors.Is(err, storage.ErrNotFound) {
		return storage.KeyValue{}, nil
	}
	if err != nil {
		return kv, apierrors.NewInternalError(fmt.Errorf("read the owner of node port %d: %w", port.number, err))
	}
	return kv, nil
}

// allocate records a requested port.
func (a *nodePortAllocation) allocate(ctx context.Context, path *field.Path, port nodePort) error {
	if slices.Contains(a.held, port) {
		return nil
	}
	refuse := func(reason string) error {
		return invalidService(a.service, field.ErrorList{field.Invalid(path, port.number, reason)})
	}
	if port.number < FirstNodePort || port.number > lastNodePort {
		return refuse(fmt.Sprintf("provided port is not in the valid range. The range of valid ports is %d-%d", FirstNodePort, lastNodePort))
	}
	free, err := a.free(ctx, port)
	if err != nil {
		return err
	}
	if !free {
		return refuse("provided port is already allocated")
	}
	a.claim(port)
	return nil
}

// allocateAny gives every port without a node port one, the same for TCP and UDP of
// one port number, as a DNS service wants it.
func (a *nodePortAllocation) allocateAny(ctx context.Context) error {
	byNumber := map[int32]int32{}
	for _, port := range a.service.Spec.Ports {
		if port.NodePort != 0 {
			byNumber[port.Port] = port.NodePort
		}
	}
	for i := range a.service.Spec.Ports {
		port := &a.service.Spec.Ports[i]
		if port.NodePort != 0 {
			continue
		}
		if number := byNumber[port.Port]; number != 0 && !slices.Contains(a.held, nodePort{port.Protocol, number}) {
			free, err := a.free(ctx, nodePort{port.Protocol, number})
			if err != nil {
				return err
			}
			if free {
				port.NodePort = number
				a.claim(nodePort{port.Protocol, number})
				continue
			}
		}
		number, err := a.next(ctx, port.Protocol)
		if err != nil {
			return err
		}
		port.NodePort = number
		byNumber[port.Port] = number
	}
	return nil
}

func (a *nodePortAllocation) allocateHealthCheck(ctx context.Context) error {
	if number := a.service.Spec.HealthCheckNodePort; number != 0 {
		return a.allocate(ctx, field.NewPath("spec", "healthCheckNodePort"), nodePort{corev1.ProtocolTCP, number})
	}
	number, err := a.next(ctx, corev1.ProtocolTCP)
	a.service.Spec.HealthCheckNodePort = number
	return err
}

// next records any free port: of the upper band, or else of the lower one.
func (a *nodePortAllocation) next(ctx context.Context, protocol corev1.Protocol) (int32, error) {
	held, err := a.heldNumbers(ctx, protocol)
	if err != nil {
		return 0, err
	}
	for _, band := range [][2]int32{{FirstNodePort + staticNodePorts, lastNodePort}, {FirstNodePort, FirstNodePort + staticNodePorts - 1}} {
		count := band[1] - band[0] + 1
		start := rand.Int32N(count)
		for i := range count {
			port := nodePort{protocol, band[0] + (start+i)%count}
			if !held[port.key()] && !slices.Contains(a.held, port) {
				a.claim(port)
				return port.number, nil
			}
		}
	}
	return 0, apierrors.NewInternalError(errors.New("failed to allocate a nodePort: range is full"))
}

func (a *nodePortAllocation) heldNumbers(ctx context.Context, protocol corev1.Protocol) (map[string]bool, error) {
	held := map[string]bool{}
	if a.snapshot != nil {
		for key := range a.snapshot {
			held[key] = true
		}
		return held, nil
	}
	kvs, _, err := a.store.List(ctx, nodePortPrefix+strings.ToLower(string(protocol))+"/")
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("list node ports: %w", err))
	}
	for _, kv := range kvs {
		held[kv.Key] = true
	}
	return held, nil
}

func (a *nodePortAllocation) free(ctx context.Context, port nodePort) (bool, error) {
	kv, err := a.record(ctx, port)
	return kv.Key == "", err
}

func (a *nodePortAllocation) claim(port nodePort) {
	a.held = append(a.held, port)
	a.guard(port.key(), 0)
	a.tx.Ops = append(a.tx.Ops, storage.Op{Key: port.key(), Value: []byte(a.service.Namespace + "/" + a.service.Name)})
}

// release frees the ports of a service, except those that it keeps.
func (a *nodePortAllocation) release(ctx context.Context, service *corev1.Service, keep []nodePort) error {
	for _, port := range heldNodePorts(service) {
		if slices.Contains(keep, port) {
			continue
		}
		kv, err := a.record(ctx, port)
		if err != nil {
			return err
		}
		if kv.Key == "" || string(kv.Value) != service.Namespace+"/"+service.Name {
			continue
		}
		a.guard(kv.Key, kv.ModRevision)
		a.tx.Ops = append(a.tx.Ops, storage.Op{Key: kv.Key, Delete: true})
	}
	return nil
}
