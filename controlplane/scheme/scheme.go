// Package scheme registers every type that the control plane uses: the v1 types of the served groups with Kubernetes' defaults and
// declarative validation, the internal types that Kubernetes' other rules are written for, and the other types of requests and responses.
// It owns the form in which objects of these types are stored.
package scheme

import (
	"fmt"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/kubernetes/pkg/apis/apps"
	appsv1 "k8s.io/kubernetes/pkg/apis/apps/v1"
	"k8s.io/kubernetes/pkg/apis/autoscaling"
	autoscalingv1 "k8s.io/kubernetes/pkg/apis/autoscaling/v1"
	"k8s.io/kubernetes/pkg/apis/coordination"
	coordinationv1 "k8s.io/kubernetes/pkg/apis/coordination/v1"
	"k8s.io/kubernetes/pkg/apis/core"
	corev1 "k8s.io/kubernetes/pkg/apis/core/v1"
	"k8s.io/kubernetes/pkg/apis/discovery"
	discoveryv1 "k8s.io/kubernetes/pkg/apis/discovery/v1"
	"k8s.io/kubernetes/pkg/apis/events"
	eventsv1 "k8s.io/kubernetes/pkg/apis/events/v1"
	"k8s.io/kubernetes/pkg/apis/networking"
	networkingv1 "k8s.io/kubernetes/pkg/apis/networking/v1"
	"k8s.io/kubernetes/pkg/apis/policy"
	policyv1 "k8s.io/kubernetes/pkg/apis/policy/v1"
	"k8s.io/kubernetes/pkg/apis/scheduling"
	schedulingv1 "k8s.io/kubernetes/pkg/apis/scheduling/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/skep-io/skep/controlplane/storage"
)

// Scheme is the control plane's.
var Scheme = newScheme()

// Codec stores the types of Scheme.
var Codec = storage.NewProtobuf(Scheme)

func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	for _, add := range []func(*runtime.Scheme) error{
		core.AddToScheme, corev1.AddToScheme,
		apps.AddToScheme, appsv1.AddToScheme,
		coordination.AddToScheme, coordinationv1.AddToScheme,
		discovery.AddToScheme, discoveryv1.AddToScheme,
		events.AddToScheme, eventsv1.AddToScheme,
		networking.AddToScheme, networkingv1.AddToScheme,
		scheduling.AddToScheme, schedulingv1.AddToScheme,
		autoscaling.AddToScheme, autoscalingv1.AddToScheme,
		policy.AddToScheme, policyv1.AddToScheme,
		authenticationv1.AddToScheme, authorizationv1.AddToScheme,
		metricsv1beta1.AddToScheme, apidiscoveryv2.AddToScheme, metav1.AddMetaToScheme,
	} {
		utilruntime.Must(add(s))
	}
	return s
}

// Internal converts a v1 object to the internal type I. The result shares
// memory with obj, so whoever changes it must own obj. Between the two types of
// one kind a conversion fails only if a type is missing in the scheme.
func Internal[I any](obj runtime.Object) *I {
	in := new(I)
	if err := Scheme.Convert(obj, in, nil); err != nil {
		panic(fmt.Sprintf("convert %T to %T: %v", obj, in, err))
	}
	return in
}
