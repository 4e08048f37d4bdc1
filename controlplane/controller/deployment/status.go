package deployment

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	deploymentutil "k8s.io/kubernetes/pkg/controller/deployment/util"
)

// status adds up the statuses of the sets.
func (l *look) status() appsv1.DeploymentStatus {
	all := l.all()
	available := deploymentutil.GetAvailableReplicaCountForReplicaSets(all)
	status := appsv1.DeploymentStatus{
		ObservedGeneration:  l.d.Generation,
		Replicas:            deploymentutil.GetActualReplicaCountForReplicaSets(all),
		UpdatedReplicas:     deploymentutil.GetActualReplicaCountForReplicaSets([]*appsv1.ReplicaSet{l.current}),
		ReadyReplicas:       deploymentutil.GetReadyReplicaCountForReplicaSets(all),
		AvailableReplicas:   available,
		UnavailableReplicas: max(deploymentutil.GetReplicaCountForReplicaSets(all)-available, 0),
		CollisionCount:      l.d.Status.CollisionCount,
		Conditions:          append([]appsv1.DeploymentCondition(nil), l.d.Status.Conditions...),
	}
	condition := deploymentutil.NewDeploymentCondition(appsv1.DeploymentAvailable, corev1.ConditionTrue,
		deploymentutil.MinimumReplicasAvailable, "Deployment has minimum availability.")
	if available < l.replicas()-deploymentutil.MaxUnavailable(*l.d) {
		condition = deploymentutil.NewDeploymentCondition(appsv1.DeploymentAvailable, corev1.ConditionFalse,
			deploymentutil.MinimumReplicasUnavailable, "Deployment does not have minimum availability.")
	}
	deploymentutil.SetDeploymentCondition(&status, *condition)
	return status
}

// judgeProgress sets the conditions of a rollout in the plan's status, and returns after how long the deadline for progress is to be
// checked; 0: there is none now.
func (l *look) judgeProgress() time.Duration {
	status := &l.plan.status
	deploymentutil.RemoveDeploymentCondition(status, appsv1.DeploymentReplicaFailure)
	if failure := failureOf(l.current, l.old); failure != nil {
		deploymentutil.SetDeploymentCondition(status, *failure)
	}
	if !deploymentutil.HasProgressDeadline(l.d) {
		deploymentutil.RemoveDeploymentCondition(status, appsv1.DeploymentProgressing)
		return 0
	}
	progress := deploymentutil.GetDeploymentCondition(l.d.Status, appsv1.DeploymentProgressing)
	if progress != nil && progress.Reason == deploymentutil.NewRSAvailableReason && status.Replicas == status.UpdatedReplicas {
		return 0 // the rollout is over, and what happens to its pods later is none
	}
	name := fmt.Sprintf("Deployment %q", l.d.Name)
	if l.current != nil {
		name = fmt.Sprintf("ReplicaSet %q", l.current.Name)
	}
	switch {
	case deploymentutil.DeploymentComplete(l.d, status):
		setProgress(status, corev1.ConditionTrue, deploymentutil.NewRSAvailableReason, name+" has successfully progressed.")
		return 0
	case deploymentutil.DeploymentProgressing(l.d, status):
		// The time of the last progress is what the deadline counts from: it is renewed though the reason is the same.
		deploymentutil.RemoveDeploymentCondition(status, appsv1.DeploymentProgressing)
		renewed := deploymentutil.NewDeploymentCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, deploymentutil.ReplicaSetUpdatedReason, name+" is progressing.")
		if progress != nil && progress.Status == corev1.ConditionTrue {
			renewed.LastTransitionTime = progress.LastTransitionTime
		}
		deploymentutil.SetDeploymentCondition(status, *renewed)
	case deploymentutil.DeploymentTimedOut(context.Background(), l.d, status):
		setProgress(status, corev1.ConditionFalse, deploymentutil.TimedOutReason, name+" has timed out progressing.")
	}
	progress = deploymentutil.GetDeploymentCondition(*status, appsv1.DeploymentProgressing)
	if progress == nil || progress.Reason == deploymentutil.TimedOutReason {
		return 0
	}
	deadline := progress.LastUpdateTime.Add(time.Duration(*l.d.Spec.ProgressDeadlineSeconds) * time.Second)
	// A second more: times in objects are whole seconds.
	return max(time.Until(deadline), 0) + time.Second
}

// failureOf returns why pods cannot be created, the newest set's reason before those of the others; nil: they can.
func failureOf(current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) *appsv1.DeploymentCondition {
	for _, set := range append([]*appsv1.ReplicaSet{current}, old...) {
		if set == nil {
			continue
		}
		for _, condition := range set.Status.Conditions {
			if condition.Type == appsv1.ReplicaSetReplicaFailure {
				failure := deploymentutil.ReplicaSetToDeploymentCondition(condition)
				return &failure
			}
		}
	}
	return nil
}

func setProgress(status *appsv1.DeploymentStatus, value corev1.ConditionStatus, reason, message string) {
	deploymentutil.SetDeploymentCondition(status, *deploymentutil.NewDeploymentCondition(appsv1.DeploymentProgressing, value, reason, message))
}

// progress records in a plan what became of the new set.
func (p *plan) progress(d *appsv1.Deployment, value corev1.ConditionStatus, reason, message string) {
	if deploymentutil.HasProgressDeadline(d) {
		setProgress(&p.status, value, reason, message)
	}
}
