package kinds

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"

	"github.com/skep-io/skep/controlplane/resource"
)

// ServiceAccounts is the kind of v1 ServiceAccount.
var ServiceAccounts = &resource.Kind{
	GVK: coreV1.WithKind("ServiceAccount"), Resource: "serviceaccounts", Singular: "serviceaccount",
	ShortNames: []string{"sa"}, Namespaced: true, Verbs: allVerbs,
	New:     func() resource.Object { return &corev1.ServiceAccount{} },
	NewList: func() runtime.Object { return &corev1.ServiceAccountList{} },
	Absence: resource.AbsenceIgnored,

	Default:          setDefaults,
	PrepareForCreate: prepareCreate(keepSecretNames),
	ValidateCreate:   validateCreate(validation.ValidateServiceAccount),
	PrepareForUpdate: prepareUpdate(func(account, _ *core.ServiceAccount) { keepSecretNames(account) }),
	ValidateUpdate:   validateUpdate(validation.ValidateServiceAccountUpdate),
	ReturnsDeleted:   true,
	Warnings: func(obj resource.Object) []string {
		const annotation = "kubernetes.io/enforce-mountable-secrets"
		if _, ok := obj.GetAnnotations()[annotation]; ok {
			return []string{fmt.Sprintf("metadata.annotations[%s]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets", annotation)}
		}
		return nil
	},
}

// keepSecretNames drops everything but the name from references to secrets: the account's
// own namespace determines the rest.
func keepSecretNames(account *core.ServiceAccount) {
	for i, secret := range account.Secrets {
		account.Secrets[i] = core.ObjectReference{Name: secret.Name}
	}
}
