package scheduler

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	schedulerv1 "k8s.io/kube-scheduler/config/v1"
)

const (
	// maxWeight bounds weights so that no sum of scores overflows.
	maxWeight = 1 << 20
	// Limits of Kubernetes.
	maxResourceWeight = 100
	maxUtilization    = 100
	maxShapeScore     = 10
)

// readStrategy reads the scoring strategy of NodeResourcesFit.
func readStrategy(at *field.Path, given *schedulerv1.ScoringStrategy) (score, field.ErrorList) {
	s, errs := &strategyScore{}, field.ErrorList{}
	for i, r := range given.Resources {
		at := at.Child("resources").Index(i)
		for _, problem := range validation.IsQualifiedName(r.Name) {
			errs = append(errs, field.Invalid(at.Child("name"), r.Name, problem))
		}
		if r.Weight == 0 {
			r.Weight = 1
		}
		if r.Weight < 1 || r.Weight > maxResourceWeight {
			errs = append(errs, field.Invalid(at.Child("weight"), r.Weight, fmt.Sprintf("resource weight of %s not in valid range [1, %d]", r.Name, maxResourceWeight)))
		}
		s.resources = append(s.resources, resourceWeight{corev1.ResourceName(r.Name), r.Weight})
	}
	if len(s.resources) == 0 {
		s.resources = []resourceWeight{{corev1.ResourceCPU, 1}, {corev1.ResourceMemory, 1}}
	}
	ratio := at.Child("requestedToCapacityRatio")
	switch given.Type {
	case schedulerv1.LeastAllocated, "":
		s.rate = leastAllocated
	case schedulerv1.MostAllocated:
		s.rate = mostAllocated
	case schedulerv1.RequestedToCapacityRatio:
		if given.RequestedToCapacityRatio == nil {
			return nil, append(errs, field.Required(ratio, "the strategy RequestedToCapacityRatio needs a shape"))
		}
		shape, problems := readShape(ratio.Child("shape"), given.RequestedToCapacityRatio.Shape)
		if problems != nil {
			return nil, append(errs, problems...)
		}
		s.rate, s.ratio = capacityRatio(shape), true
	default:
		return nil, append(errs, field.NotSupported(at.Child("type"), given.Type, []schedulerv1.ScoringStrategyType{
			schedulerv1.LeastAllocated, schedulerv1.MostAllocated, schedulerv1.RequestedToCapacityRatio,
		}))
	}
	if given.RequestedToCapacityRatio != nil && !s.ratio {
		errs = append(errs, field.Forbidden(ratio, "counts only with the type RequestedToCapacityRatio"))
	}
	return s, errs
}

func readShape(at *field.Path, given []schedulerv1.UtilizationShapePoint) (shape []shapePoint, errs field.ErrorList) {
	if len(given) == 0 {
		return nil, field.ErrorList{field.Required(at, "at least one point must be specified")}
	}
	for i, p := range given {
		at := at.Index(i)
		if p.Utilization < 0 || p.Utilization > maxUtilization {
			errs = append(errs, field.Invalid(at.Child("utilization"), p.Utilization, fmt.Sprintf("not in valid range [0, %d]", maxUtilization)))
		}
		if i > 0 && p.Utilization <= given[i-1].Utilization {
			errs = append(errs, field.Invalid(at.Child("utilization"), p.Utilization, "utilization values must be sorted in increasing order"))
		}
		if p.Score < 0 || p.Score > maxShapeScore {
			errs = append(errs, field.Invalid(at.Child("score"), p.Score, fmt.Sprintf("not in valid range [0, %d]", maxShapeScore)))
		}
		shape = append(shape, shapePoint{int64(p.Utilization), int64(p.Score) * maxScore / maxShapeScore})
	}
	return shape, errs
}
