package life

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Action is something to do for the pod. If an action has an answer, its comment names it; it comes
// as an event, once. The state machine does not block for it.
type Action interface{ action() }

type (
	// SetUp makes the pod's namespaces, network and volumes, or finds those that
	// are there. Answer: SetupReady or SetupFailed; AddressesAssigned may come before.
	SetUp struct{}
	// AbandonSetup cancels the wait for the setup, also that of containers for a part of it.
	AbandonSetup struct{}

	// PullImage makes a container's image present, as its pull policy says.
	// Answer: ImagePresent, AttemptFailed or AttemptAbandoned.
	PullImage struct{ Container string }
	// AbandonPull cancels the wait for an image, so that the answer comes at once.
	AbandonPull struct{ Container string }
	// CreateContainer makes a container as soon as namespaces and volumes exist.
	// Answer: ContainerCreated, AttemptFailed or AttemptAbandoned.
	CreateContainer struct {
		Container string
		Number    int // of the attempt
	}
	// StartContainer lets a created container run as soon as the network is up.
	// Answer: ContainerStarted, AttemptFailed or AttemptAbandoned.
	StartContainer struct{ Container, ID string }
	// DiscardContainer removes a created container that is not to run.
	DiscardContainer struct{ Container, ID string }
	// ForgetContainer removes the record of an attempt that is not needed any more.
	ForgetContainer struct{ ID string }

	// RunPreStop runs the hook before its container is stopped. Answer: PreStopEnded.
	RunPreStop struct{ Container, ID string }
	// EndPreStop cancels the hook; its answer then changes nothing.
	EndPreStop struct{ Container string }
	// SignalContainer sends the container's stop signal. Answer: ContainerExited,
	// whenever that happens, or SignalFailed.
	SignalContainer struct{ Container, ID string }
	// KillContainer kills it. Answer: ContainerExited or KillFailed.
	KillContainer struct{ Container, ID string }

	// RunPostStart runs the hook beside its container. Answer: PostStartEnded.
	RunPostStart struct{ Container, ID string }
	// EndPostStart cancels the hook; there is no answer then.
	EndPostStart struct{ Container string }
	// WatchProbe begins to probe. Answers: Probed, whenever the result changes.
	WatchProbe struct {
		Container string
		Attempt   Attempt
		Kind      ProbeKind
		Initial   bool // the result to start from
	}
	// EndProbe ends one of a container's probes.
	EndProbe struct {
		Container string
		Kind      ProbeKind
	}

	// WithdrawAddress removes the pod from this node's service maps, and
	// RestoreAddress lets it in again. Repeating either changes nothing.
	WithdrawAddress struct{}
	RestoreAddress  struct{}
	// Drain makes clients on all nodes use other pods. Answer: Drained.
	Drain struct{ Limit time.Duration }
	// RefreshVolumes brings configuration volumes up to date. Answer: VolumesRefreshed.
	RefreshVolumes struct{}

	// Release releases network, namespaces and volumes. Answer: Released.
	Release struct{}
	// Remove writes the last status, deletes the API object unless it was deleted, and then the
	// pod's records. Answer: ObjectRemoved.
	Remove struct {
		ObjectGone bool
		Status     *corev1.PodStatus
	}

	// WriteStatus writes the status to the API server.
	WriteStatus struct{ Status *corev1.PodStatus }
	// Report is an event for the API's users, about a container or the whole pod.
	Report struct {
		Container, Type, Reason, Message string
		Annotations                      map[string]string
	}
	// LogError is for the node's log.
	LogError struct {
		Message, Container string
		Err                error
	}
)

func (SetUp) action()            {}
func (AbandonSetup) action()     {}
func (PullImage) action()        {}
func (AbandonPull) action()      {}
func (CreateContainer) action()  {}
func (StartContainer) action()   {}
func (DiscardContainer) action() {}
func (ForgetContainer) action()  {}
func (RunPreStop) action()       {}
func (EndPreStop) action()       {}
func (SignalContainer) action()  {}
func (KillContainer) action()    {}
func (RunPostStart) action()     {}
func (EndPostStart) action()     {}
func (WatchProbe) action()       {}
func (EndProbe) action()         {}
func (WithdrawAddress) action()  {}
func (RestoreAddress) action()   {}
func (Drain) action()            {}
func (RefreshVolumes) action()   {}
func (Release) action()          {}
func (Remove) action()           {}
func (WriteStatus) action()      {}
func (Report) action()           {}
func (LogError) action()         {}
