package kinds

import (
	"context"
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	podapi "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/helper/qos"
	"k8s.io/kubernetes/pkg/apis/core/validation"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/scheme"
)

// Names of pod indexes.
const (
	// PodsByNode finds the pods that are bound to a node.
	PodsByNode = "spec.nodeName"
	// PodsByController finds the pods that a controller owns, by the controller's UID.
	PodsByController = "controllerUID"
)

// Pods is the kind of v1 Pod.
var Pods = &resource.Kind{
	GVK: coreV1.WithKind("Pod"), Resource: "pods", Singular: "pod",
	ShortNames: []string{"po"}, Categories: []string{"all"},
	Namespaced: true, Verbs: allVerbs,
	New:     func() resource.Object { return &corev1.Pod{} },
	NewList: func() runtime.Object { return &corev1.PodList{} },
	Absence: resource.AbsenceDecides,

	Default:          setDefaults,
	PrepareForCreate: prepareCreate(preparePodCreate),
	ValidateCreate:   validateCreate(validatePodCreate),
	PrepareForUpdate: prepareUpdate(preparePodUpdate),
	ValidateUpdate:   validateUpdate(validatePodUpdate),
	SpecChanged: func(obj, old resource.Object) bool {
		return !apiequality.Semantic.DeepEqual(obj.(*corev1.Pod).Spec, old.(*corev1.Pod).Spec)
	},
	Status: &resource.UpdateRules{
		PrepareForUpdate: prepareUpdate(preparePodStatusUpdate),
		Validate:         validateUpdate(validatePodStatusUpdate, "status"),
		ResetFields:      []fieldpath.Path{fieldpath.MakePathOrDie("metadata", "deletionTimestamp"), fieldpath.MakePathOrDie("metadata", "ownerReferences")},
	},
	Subresources: []resource.Subresource{
		action("binding", coreV1.WithKind("Binding"), func() runtime.Object { return &corev1.Binding{} }),
		action("eviction", policyv1.SchemeGroupVersion.WithKind("Eviction"), func() runtime.Object { return &policyv1.Eviction{} }),
		{Name: "log", Verbs: []string{"get"}, Options: func() runtime.Object { return &corev1.PodLogOptions{} }, MediaType: "text/plain"},
		connection("exec", "PodExecOptions", func() runtime.Object { return &corev1.PodExecOptions{} }),
		connection("attach", "PodAttachOptions", func() runtime.Object { return &corev1.PodAttachOptions{} }),
		connection("portforward", "PodPortForwardOptions", func() runtime.Object { return &corev1.PodPortForwardOptions{} }),
		proxied("PodProxyOptions", func() runtime.Object { return &corev1.PodProxyOptions{} }),
	},
	ReturnsDeleted: true,

	Warnings: podWarnings,
	Fields:   podFields,
	Indexes: map[string]func(resource.Object) []string{
		PodsByNode:       func(obj resource.Object) []string { return nonEmpty(obj.(*corev1.Pod).Spec.NodeName) },
		PodsByController: controllerUID,
	},
	GracePeriod: podGracePeriod,
}

func preparePodCreate(pod *core.Pod) {
	pod.Status = core.PodStatus{Phase: core.PodPending}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = "default"
	}
	if pod.Spec.DeprecatedServiceAccount == "" {
		pod.Spec.DeprecatedServiceAccount = pod.Spec.ServiceAccountName
	}
	podapi.DropDisabledPodFields(pod, nil)
	if len(pod.Spec.SchedulingGates) > 0 {
		podapi.UpdatePodCondition(&pod.Status, &core.PodCondition{
			Type: core.PodScheduled, Status: core.ConditionFalse,
			Reason:  corev1.PodReasonSchedulingGated,
			Message: "Scheduling is blocked due to non-empty scheduling gates",
		})
	}
	mergeLabelKeys(pod)
	podapi.DefaultPodLevelResources(pod)
	pod.Status.QOSClass = qos.GetPodQOS(pod)
}

// mergeLabelKeys turns matchLabelKeys and mismatchLabelKeys into selector terms
// with the values that the pod's labels have now: later label changes must not
// move a pod between groups.
func mergeLabelKeys(pod *core.Pod) {
	addTerms := func(selector *metav1.LabelSelector, keys []string, operator metav1.LabelSelectorOperator) {
		for _, key := range keys {
			if value, ok := pod.Labels[key]; ok && selector != nil {
				selector.MatchExpressions = append(selector.MatchExpressions,
					metav1.LabelSelectorRequirement{Key: key, Operator: operator, Values: []string{value}})
			}
		}
	}
	for i := range pod.Spec.TopologySpreadConstraints {
		c := &pod.Spec.TopologySpreadConstraints[i]
		addTerms(c.LabelSelector, c.MatchLabelKeys, metav1.LabelSelectorOpIn)
	}
	for _, term := range podAffinityTerms(pod.Spec.Affinity) {
		addTerms(term.LabelSelector, term.MatchLabelKeys, metav1.LabelSelectorOpIn)
		addTerms(term.LabelSelector, term.MismatchLabelKeys, metav1.LabelSelectorOpNotIn)
	}
}

func podAffinityTerms(affinity *core.Affinity) []*core.PodAffinityTerm {
	var terms []*core.PodAffinityTerm
	collect := func(required []core.PodAffinityTerm, preferred []core.WeightedPodAffinityTerm) {
		for i := range required {
			terms = append(terms, &required[i])
		}
		for i := range preferred {
			terms = append(terms, &preferred[i].PodAffinityTerm)
		}
	}
	if affinity != nil && affinity.PodAffinity != nil {
		collect(affinity.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution,
			affinity.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if affinity != nil && affinity.PodAntiAffinity != nil {
		collect(affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution,
			affinity.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return terms
}

func validatePodCreate(pod *core.Pod) field.ErrorList {
	return validation.ValidatePodCreate(pod, podValidationOptions(pod, nil))
}

func preparePodUpdate(pod, old *core.Pod) {
	pod.Status = old.Status
	if pod.Spec.Resources == nil && old.Spec.Resources != nil {
		// Clients without support for pod-level resources drop them without intent.
		pod.Spec.Resources = old.Spec.Resources
	}
	podapi.DropDisabledPodFields(pod, old)
}

func validatePodUpdate(pod, old *core.Pod) field.ErrorList {
	return validation.ValidatePodUpdate(pod, old, podValidationOptions(pod, old))
}

func preparePodStatusUpdate(pod, old *core.Pod) {
	pod.Spec = old.Spec
	pod.DeletionTimestamp = nil
	pod.OwnerReferences = old.OwnerReferences
	if pod.Status.QOSClass == "" {
		pod.Status.QOSClass = old.Status.QOSClass
	}
	if pod.Status.ObservedGeneration == 0 {
		pod.Status.ObservedGeneration = old.Status.ObservedGeneration
	}
	keepConditionGenerations(pod.Status.Conditions, old.Status.Conditions)
	podapi.DropDisabledPodFields(pod, old)
}

// keepConditionGenerations keeps observedGeneration of conditions whose writer
// does not know the field. Types may repeat, so they pair up in order.
func keepConditionGenerations(conditions, old []core.PodCondition) {
	known := map[core.PodConditionType][]int64{}
	for _, c := range old {
		known[c.Type] = append(known[c.Type], c.ObservedGeneration)
	}
	for i := range conditions {
		c := &conditions[i]
		generations := known[c.Type]
		if len(generations) == 0 {
			continue
		}
		known[c.Type] = generations[1:]
		if c.ObservedGeneration == 0 {
			c.ObservedGeneration = generations[0]
		}
	}
}

func validatePodStatusUpdate(pod, old *core.Pod) field.ErrorList {
	return validation.ValidatePodStatusUpdate(pod, old, podValidationOptions(pod, old))
}

func podValidationOptions(pod, old *core.Pod) validation.PodValidationOptions {
	var oldSpec *core.PodSpec
	var oldMeta *metav1.ObjectMeta
	if old != nil {
		oldSpec, oldMeta = &old.Spec, &old.ObjectMeta
	}
	options := podapi.GetValidationOptionsFromPodSpecAndMeta(&pod.Spec, oldSpec, &pod.ObjectMeta, oldMeta)
	options.ResourceIsPod = true
	return options
}

func podWarnings(obj resource.Object) []string {
	var warnings []string
	if msgs := utilvalidation.IsDNS1123Label(obj.GetName()); len(msgs) != 0 {
		warnings = append(warnings, fmt.Sprintf("metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: %v", msgs))
	}
	return append(warnings, podapi.GetWarningsForPod(context.Background(), scheme.Internal[core.Pod](obj), nil)...)
}

func podFields(obj resource.Object) fields.Set {
	pod := obj.(*corev1.Pod)
	podIP := ""
	if len(pod.Status.PodIPs) > 0 {
		podIP = pod.Status.PodIPs[0].IP
	}
	return fields.Set{
		"spec.nodeName":            pod.Spec.NodeName,
		"spec.restartPolicy":       string(pod.Spec.RestartPolicy),
		"spec.schedulerName":       pod.Spec.SchedulerName,
		"spec.serviceAccountName":  pod.Spec.ServiceAccountName,
		"spec.hostNetwork":         strconv.FormatBool(pod.Spec.HostNetwork),
		"status.phase":             string(pod.Status.Phase),
		"status.podIP":             podIP,
		"status.nominatedNodeName": pod.Status.NominatedNodeName,
	}
}

// podGracePeriod gives the node time to stop the containers, unless the pod has no node
// or has ended.
func podGracePeriod(obj resource.Object, opts *metav1.DeleteOptions) (int64, bool) {
	pod := obj.(*corev1.Pod)
	seconds := int64(0)
	if opts != nil && opts.GracePeriodSeconds != nil {
		seconds = *opts.GracePeriodSeconds
	} else if pod.Spec.TerminationGracePeriodSeconds != nil {
		seconds = *pod.Spec.TerminationGracePeriodSeconds
	}
	if pod.Spec.NodeName == "" || pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		seconds = 0
	}
	if seconds < 0 {
		seconds = 1
	}
	return seconds, true
}

func nonEmpty(value string) []string {
	if value == "" {
		return nil
	}
	return []string{value}
}

func controllerUID(obj resource.Object) []string {
	if owner := metav1.GetControllerOfNoCopy(obj); owner != nil {
		return []string{string(owner.UID)}
	}
	return nil
}
