package kinds

import (
	"crypto/tls"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"

	"github.com/skep-io/skep/controlplane/resource"
)

// Secrets is the kind of v1 Secret. stringData is merged into data by the conversion that
// every write goes through, and never stored.
var Secrets = &resource.Kind{
	GVK: coreV1.WithKind("Secret"), Resource: "secrets", Singular: "secret",
	Namespaced: true, Verbs: allVerbs,
	New:     func() resource.Object { return &corev1.Secret{} },
	NewList: func() runtime.Object { return &corev1.SecretList{} },
	Absence: resource.AbsenceIgnored,

	Default:          setDefaults,
	PrepareForCreate: prepareCreate(func(*core.Secret) {}),
	ValidateCreate:   validateCreate(validation.ValidateSecret),
	PrepareForUpdate: prepareUpdate(func(secret, old *core.Secret) {
		if secret.Type == "" {
			secret.Type = old.Type
		}
	}),
	ValidateUpdate: validateUpdate(validation.ValidateSecretUpdate),
	Warnings:       secretWarnings,
	Fields: func(obj resource.Object) fields.Set {
		return fields.Set{"type": string(obj.(*corev1.Secret).Type)}
	},
}

func secretWarnings(obj resource.Object) []string {
	secret := obj.(*corev1.Secret)
	if secret.Type != corev1.SecretTypeTLS {
		return nil
	}
	if _, err := tls.X509KeyPair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey]); err != nil {
		return []string{err.Error()}
	}
	return nil
}
