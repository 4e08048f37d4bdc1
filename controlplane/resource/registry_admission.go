package resource

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"

	"github.com/skep-io/skep/controlplane/identity"
)

// gate is the plugins that every change has to pass before it is written.
type gate struct {
	mutating   []mutating
	validating []validating
}

type mutating struct {
	admission.MutationInterface
	timer admissionTimer
}

type validating struct {
	admission.ValidationInterface
	timer admissionTimer
}

func newGate(plugins []admission.Interface) (g gate) {
	for _, plugin := range plugins {
		if p, ok := plugin.(admission.MutationInterface); ok {
			g.mutating = append(g.mutating, mutating{p, newAdmissionTimer(p, "admit")})
		}
		if p, ok := plugin.(admission.ValidationInterface); ok {
			g.validating = append(g.validating, validating{p, newAdmissionTimer(p, "validate")})
		}
	}
	return g
}

// attributes describe a change to plugins. obj and old may be nil.
func attributes(ctx context.Context, k *Kind, sub string, op admission.Operation, ns, name string, obj, old Object, dryRun bool) admission.Attributes {
	var options runtime.Object
	switch op {
	case admission.Create:
		options = &metav1.CreateOptions{}
	case admission.Update:
		options = &metav1.UpdateOptions{}
	default:
		options = &metav1.DeleteOptions{}
	}
	return admission.NewAttributesRecord(untyped(obj), untyped(old), k.GVK, ns, name, k.GroupVersionResource(), sub, op, options, dryRun, identity.From(ctx))
}

// untyped is nil for no object, as plugins expect it.
func untyped(obj Object) runtime.Object {
	if obj == nil {
		return nil
	}
	return obj
}

// admit has plugins change or refuse an object before it is prepared and validated.
func (g *gate) admit(ctx context.Context, a admission.Attributes) error {
	for _, plugin := range g.mutating {
		if plugin.Handles(a.GetOperation()) {
			began := time.Now()
			err := plugin.Admit(ctx, a, nil)
			plugin.timer.observe(a.GetOperation(), began, err)
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// validate lets plugins refuse an object that is valid and has what was allocated for it.
func (g *gate) validate(ctx context.Context, a admission.Attributes) error {
	for _, plugin := range g.validating {
		if plugin.Handles(a.GetOperation()) {
			began := time.Now()
			err := plugin.Validate(ctx, a, nil)
			plugin.timer.observe(a.GetOperation(), began, err)
			if err != nil {
				return err
			}
		}
	}
	return nil
}
