package allocator

import (
	"context"
	"errors"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/storage"
)

// RecordServiceIP writes the record of an address that a service has; it replaces a wrong
// record, or creates one if that is nil. If the service or the record has changed since
// they were read, it is a conflict.
func (k Kinds) RecordServiceIP(ctx context.Context, r *resource.Registry, service *corev1.Service, addr netip.Addr, wrong *networkingv1.IPAddress) error {
	value, err := k.IPAddresses.Encode(k.serviceIPRecord(service, addr, familyOf(addr.String())))
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	guard := storage.Guard{Key: k.IPAddresses.Key("", addr.String())}
	if wrong != nil {
		if guard.ModRevision, err = resource.ParseRevision(wrong.ResourceVersion); err != nil {
			return err
		}
	}
	return k.record(ctx, r, service, []storage.Guard{guard}, []storage.Op{{Key: guard.Key, Value: value}})
}

// PortFinding is a node port of a service that is not recorded as the service's. Holder
// is the service that it is recorded for, if any.
type PortFinding struct {
	Port   int32
	Holder string
}

// RecordNodePorts records the node ports of a service that have no record, as in a store
// that another control plane wrote, and returns what it found.
func (k Kinds) RecordNodePorts(ctx context.Context, r *resource.Registry, service *corev1.Service) ([]PortFinding, error) {
	var findings []PortFinding
	name := service.Namespace + "/" + service.Name
	var tx resource.Tx
	held := heldNodePorts(service)
	a := nodePortAllocation{store: r.Store(), tx: &tx, service: service}
	if err := a.begin(ctx, len(held)); err != nil {
		return nil, err
	}
	for _, port := range held {
		kv, err := a.record(ctx, port)
		switch {
		case err != nil:
			return nil, err
		case kv.Key == "":
			findings = append(findings, PortFinding{Port: port.number})
			a.claim(port)
		case string(kv.Value) != name:
			findings = append(findings, PortFinding{Port: port.number, Holder: string(kv.Value)})
		}
	}
	if len(findings) == 0 {
		return nil, nil
	}
	// Also with nothing to write: the findings must apply to the service as it is now.
	if err := k.record(ctx, r, service, tx.Guards, tx.Ops); err != nil {
		return nil, err
	}
	return findings, nil
}

// record writes records of a service, if that has not changed since it was read.
func (k Kinds) record(ctx context.Context, r *resource.Registry, service *corev1.Service, guards []storage.Guard, ops []storage.Op) error {
	revision, err := resource.ParseRevision(service.ResourceVersion)
	if err != nil {
		return err
	}
	guards = append(guards, storage.Guard{Key: k.Services.Key(service.Namespace, service.Name), ModRevision: revision})
	_, err = r.Store().Commit(ctx, guards, ops)
	var conflict *storage.ConflictError
	if errors.As(err, &conflict) {
		return k.Services.Modified(service.Name)
	}
	if err != nil {
		return resource.StoreError(ctx, err)
	}
	return nil
}
