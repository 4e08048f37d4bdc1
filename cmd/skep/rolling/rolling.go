// Package rolling replaces a replication controller by another, one pod in and one pod out. What it has done is in the two
// controllers themselves, so that it can be resumed after it was interrupted, and undone.
package rolling

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"
)

const (
	// partner is the annotation of each of the two controllers that names the other.
	partner = "skep.io/rolling-update-partner"
	// desired is the annotation of each with the number of replicas that it had, or is to have.
	desired = "skep.io/rolling-update-replicas"
	// versionLabel tells the pods of a controller that was made from another from that one's.
	versionLabel = "skep.io/rolling-update"
)

// Update replaces the pods of one controller by another's.
type Update struct {
	Client    kubernetes.Interface
	Namespace string
	Old, New  string
	// Spec is the new controller; nil: it is the old one with another image, or exists already.
	Spec *corev1.ReplicationController
	// Image is for all containers, or the one named by Container.
	Image, Container string
	// Timeout is how long one pod may take to become ready, or to end.
	Timeout time.Duration
	// KeepOld leaves the old controller, without pods.
	KeepOld bool
	Out     io.Writer

	drains drains
}

// Run replaces the old controller's pods. If it fails or is interrupted, Run goes on where it ended, and Undo goes back.
func (u *Update) Run(ctx context.Context) error {
	from, err := u.get(ctx, u.Old)
	if err != nil {
		return err
	}
	to, err := u.begin(ctx, from)
	if err != nil {
		return err
	}
	if err := u.shift(ctx, from, to, replicasOf(to)); err != nil {
		return fmt.Errorf("%w\nThe same command goes on from here; with --rollback it goes back to %s", err, u.Old)
	}
	return u.finish(ctx, u.New, u.Old, u.KeepOld)
}

// Undo goes back to the old controller.
func (u *Update) Undo(ctx context.Context) error {
	old, err := u.get(ctx, u.Old)
	if err != nil {
		return err
	}
	latest, err := u.get(ctx, u.New)
	if err != nil {
		return err
	}
	if old.Annotations[partner] != u.New || latest.Annotations[partner] != u.Old {
		return fmt.Errorf("no rolling update from %s to %s is under way: there is nothing to undo", u.Old, u.New)
	}
	if err := u.shift(ctx, latest, old, replicasOf(old)); err != nil {
		return fmt.Errorf("%w\nThe same command goes on from here", err)
	}
	return u.finish(ctx, u.Old, u.New, false)
}

func (u *Update) get(ctx context.Context, name string) (*corev1.ReplicationController, error) {
	return u.Client.CoreV1().ReplicationControllers(u.Namespace).Get(ctx, name, metav1.GetOptions{})
}

// replicasOf is how many pods a controller is to have when it is the one that stays.
func replicasOf(rc *corev1.ReplicationController) int32 {
	if n, err := strconv.ParseInt(rc.Annotations[desired], 10, 32); err == nil {
		return int32(n)
	}
	return *rc.Spec.Replicas
}

// begin finds the new controller of an update that is under way, or makes it, without pods.
func (u *Update) begin(ctx context.Context, from *corev1.ReplicationController) (*corev1.ReplicationController, error) {
	if other := from.Annotations[partner]; other != "" && other != u.New {
		return nil, fmt.Errorf("a rolling update from %s to %s is under way: finish it, or undo it with --rollback", u.Old, other)
	}
	to, err := u.get(ctx, u.New)
	switch {
	case err == nil && to.Annotations[partner] == u.Old:
		fmt.Fprintf(u.Out, "Going on with the update from %s (%d pods) to %s (%d of %d)\n", u.Old, *from.Spec.Replicas, u.New, *to.Spec.Replicas, replicasOf(to))
	case err == nil:
		return nil, fmt.Errorf("replication controller %s exists already and is not the new one of an update of %s: choose another name, or delete it", u.New, u.Old)
	case !apierrors.IsNotFound(err):
		return nil, err
	default:
		if to, err = u.create(ctx, from); err != nil {
			return nil, err
		}
	}
	_, err = u.change(ctx, u.Old, func(rc *corev1.ReplicationController) {
		if rc.Annotations[partner] == "" {
			annotate(rc, u.New, *rc.Spec.Replicas)
		}
	})
	return to, err
}

func (u *Update) create(ctx context.Context, from *corev1.ReplicationController) (*corev1.ReplicationController, error) {
	rc := u.Spec.DeepCopy()
	if rc == nil {
		var err error
		if rc, err = u.derive(from); err != nil {
			return nil, err
		}
	}
	count := *from.Spec.Replicas
	if u.Spec != nil && u.Spec.Spec.Replicas != nil {
		count = *u.Spec.Spec.Replicas
	}
	rc.Name, rc.Namespace = u.New, u.Namespace
	rc.Spec.Replicas = new(int32)
	annotate(rc, u.Old, count)
	created, err := u.Client.CoreV1().ReplicationControllers(u.Namespace).Create(ctx, rc, metav1.CreateOptions{})
	if err == nil {
		fmt.Fprintf(u.Out, "Created %s\n", u.New)
	}
	return created, err
}

// derive is the old controller with another image. Its selector has a label more, so that neither selects the other's pods alone.
func (u *Update) derive(from *corev1.ReplicationController) (*corev1.ReplicationController, error) {
	rc := &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Labels: from.Labels},
		Spec:       *from.Spec.DeepCopy(),
	}
	changed := false
	for i := range rc.Spec.Template.Spec.Containers {
		c := &rc.Spec.Template.Spec.Containers[i]
		if u.Container == "" && len(rc.Spec.Template.Spec.Containers) > 1 {
			return nil, fmt.Errorf("%s has several containers: say by --container which gets the image", u.Old)
		}
		if u.Container == "" || c.Name == u.Container {
			c.Image, changed = u.Image, true
		}
	}
	if !changed {
		return nil, fmt.Errorf("%s has no container %q", u.Old, u.Container)
	}
	if rc.Spec.Selector == nil {
		rc.Spec.Selector = map[string]string{}
	}
	if rc.Spec.Template.Labels == nil {
		rc.Spec.Template.Labels = map[string]string{}
	}
	rc.Spec.Selector[versionLabel], rc.Spec.Template.Labels[versionLabel] = u.New, u.New
	return rc, nil
}

func annotate(rc *corev1.ReplicationController, other string, count int32) {
	if rc.Annotations == nil {
		rc.Annotations = map[string]string{}
	}
	rc.Annotations[partner], rc.Annotations[desired] = other, strconv.Itoa(int(count))
}

// shift moves the pods: one is added to the one side and ready before one is taken from the other.
func (u *Update) shift(ctx context.Context, from, to *corev1.ReplicationController, want int32) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := u.follow(ctx, from); err != nil {
		return err
	}
	less, more := *from.Spec.Replicas, *to.Spec.Replicas
	// An update that goes on may have been interrupted before what it added was ready.
	if err := u.scale(ctx, to.Name, more); err != nil {
		return err
	}
	for more < want || less > 0 {
		if more < want {
			more++
			if err := u.scale(ctx, to.Name, more); err != nil {
				return err
			}
			fmt.Fprintf(u.Out, "%s: %d of %d pods ready\n", to.Name, more, want)
		}
		if less > 0 {
			less--
			if err := u.scale(ctx, from.Name, less); err != nil {
				return err
			}
			fmt.Fprintf(u.Out, "%s: %d pods\n", from.Name, less)
		}
	}
	u.drains.settle()
	return nil
}

// finish removes the controller that has no pods any more, and the marks of the update.
func (u *Update) finish(ctx context.Context, stays, goes string, keep bool) error {
	unmark := func(rc *corev1.ReplicationController) {
		delete(rc.Annotations, partner)
		delete(rc.Annotations, desired)
	}
	var err error
	if keep {
		_, err = u.change(ctx, goes, unmark)
	} else {
		err = u.Client.CoreV1().ReplicationControllers(u.Namespace).Delete(ctx, goes, metav1.DeleteOptions{})
	}
	if err == nil {
		_, err = u.change(ctx, stays, unmark)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(u.Out, "%s has replaced %s. %s\n", stays, goes, u.drains.summary())
	return nil
}

// change modifies a controller, also when others change it at the same time.
func (u *Update) change(ctx context.Context, name string, how func(*corev1.ReplicationController)) (rc *corev1.ReplicationController, err error) {
	err = retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		current, err := u.get(ctx, name)
		if err != nil {
			return err
		}
		how(current)
		rc, err = u.Client.CoreV1().ReplicationControllers(u.Namespace).Update(ctx, current, metav1.UpdateOptions{})
		return err
	})
	return rc, err
}
