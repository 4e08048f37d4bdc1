package pod

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/agent/pod/life"
	"github.com/skep-io/skep/agent/runtime"
)

// ensureImage makes the container's image present as its pull policy says.
func (w *worker) ensureImage(ctx context.Context, pod *corev1.Pod, spec *corev1.Container) life.Event {
	fail := func(kind life.FailureKind, message string) life.Event {
		if ctx.Err() != nil {
			return life.AttemptAbandoned{Container: spec.Name}
		}
		w.containerEvent(spec.Name, corev1.EventTypeWarning, "Failed", "Error: %s", kind.Reason())
		return life.AttemptFailed{Container: spec.Name, Failure: life.Failure{Kind: kind, Message: message}}
	}
	present, err := w.runtime.ImageExists(ctx, spec.Image)
	switch {
	case errors.Is(err, runtime.ErrImageName):
		message := fmt.Sprintf("Failed to apply default image tag %q: couldn't parse image name %q: invalid reference format", spec.Image, spec.Image)
		w.containerEvent(spec.Name, corev1.EventTypeWarning, "InspectFailed", "%s", message)
		return fail(life.ImageNameInvalid, message)
	case err != nil:
		message := fmt.Sprintf("Failed to inspect image %q: %v", spec.Image, err)
		w.containerEvent(spec.Name, corev1.EventTypeWarning, "InspectFailed", "%s", message)
		return fail(life.ImageInspect, message)
	}
	switch spec.ImagePullPolicy {
	case corev1.PullNever:
		if !present {
			message := fmt.Sprintf("Container image %q is not present with pull policy of Never", spec.Image)
			w.containerEvent(spec.Name, corev1.EventTypeWarning, life.ImageNeverPull.Reason(), "%s", message)
			return fail(life.ImageNeverPull, message)
		}
	case corev1.PullAlways:
		present = false
	}
	if present {
		w.containerEvent(spec.Name, corev1.EventTypeNormal, "Pulled", "Container image %q already present on machine and can be accessed by the pod", spec.Image)
		return life.ImagePresent{Container: spec.Name}
	}
	return w.pull(ctx, pod, spec, fail)
}

func (w *worker) pull(ctx context.Context, pod *corev1.Pod, spec *corev1.Container, fail func(life.FailureKind, string) life.Event) life.Event {
	began := time.Now()
	w.containerEvent(spec.Name, corev1.EventTypeNormal, "Pulling", "Pulling image %q", spec.Image)
	err := w.runtime.Pull(ctx, spec.Image, spec.ImagePullPolicy == corev1.PullAlways, w.pullCredentials(ctx, pod))
	if err != nil {
		if ctx.Err() == nil {
			w.containerEvent(spec.Name, corev1.EventTypeWarning, "Failed", "Failed to pull image %q: %v", spec.Image, err)
		}
		return fail(life.ImagePull, err.Error())
	}
	image, err := w.runtime.Image(ctx, spec.Image)
	if err != nil {
		return fail(life.ImageInspect, err.Error())
	}
	took := time.Since(began).Truncate(time.Millisecond)
	w.containerEvent(spec.Name, corev1.EventTypeNormal, "Pulled",
		"Successfully pulled image %q in %v (%v including waiting). Image size: %v bytes.", spec.Image, took, took, image.Size)
	return life.ImagePresent{Container: spec.Name}
}

// pullCredentials reads the pod's image pull secrets. A secret that cannot be read is reported and
// omitted: the registry may not need it.
func (w *worker) pullCredentials(ctx context.Context, pod *corev1.Pod) runtime.Credentials {
	var list runtime.Credentials
	var missing []string
	for _, ref := range pod.Spec.ImagePullSecrets {
		secret, err := w.pods.cfg.Client.CoreV1().Secrets(pod.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err != nil {
			missing = append(missing, ref.Name)
			continue
		}
		data, legacy := secret.Data[corev1.DockerConfigJsonKey], false
		if data == nil {
			data, legacy = secret.Data[corev1.DockerConfigKey], true
		}
		parsed, err := runtime.ParseDockerConfig(data, legacy)
		if err != nil {
			w.event(corev1.EventTypeWarning, "FailedToRetrieveImagePullSecret", "image pull secret %s: %v", ref.Name, err)
			continue
		}
		list = append(list, parsed...)
	}
	if len(missing) > 0 {
		w.event(corev1.EventTypeWarning, "FailedToRetrieveImagePullSecret",
			"Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", strings.Join(missing, ", "))
	}
	return list
}
