package runtime

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/containers"

	"github.com/skep-io/skep/durable"
)

// User is the user of a process, with the container's IDs.
type User struct {
	UID, GID uint32
	Groups   []uint32 // all of them
}

// State is a container's state.
type State string

// A container is Created until its process starts; Exited is final.
const (
	Created State = "created"
	Running State = "running"
	Exited  State = "exited"
)

// Container is one attempt to run one container of a pod. Values are copies.
type Container struct {
	ID           string
	PodNamespace string
	PodName      string
	PodUID       string
	Name         string
	Attempt      int
	SpecHash     string
	Image        string // as normalised: what the pod's image names
	ImageID      string // digest of the image's manifest, with its repository where known
	CgroupPath   string // under each hierarchy's root
	LogPath      string
	StopSignal   string
	Terminal     bool
	Stdin        bool // has a standard input
	StdinOnce    bool // the input ends with the first client
	HostPID      bool
	User         *User // of its first process; nil if an older agent that did not record it created the container

	State      State
	Pid        int
	ExitCode   int
	Reason     string // of the exit: Completed, Error, OOMKilled, Unknown, ...
	Message    string // termination message
	CreatedAt  time.Time
	StartedAt  time.Time
	FinishedAt time.Time

	TerminationMessagePolicy string
}

// Interactive says that a user may be typing: the container's output, and its end, are shown at
// once.
func (c *Container) Interactive() bool { return c.Stdin || c.Terminal }

// Label names; adoption identifies a container by them.
const (
	labelPodNamespace = "skep.io/pod.namespace"
	labelPodName      = "skep.io/pod.name"
	labelPodUID       = "skep.io/pod.uid"
	labelName         = "skep.io/container.name"
	labelAttempt      = "skep.io/container.attempt"
	labelSpecHash     = "skep.io/container.spec-hash"
	labelImageID      = "skep.io/container.image-id"
	labelLogPath      = "skep.io/container.log-path"
	labelCgroup       = "skep.io/container.cgroup"
	labelStopSignal   = "skep.io/container.stop-signal"
	labelTerminal     = "skep.io/container.terminal"
	labelStdin        = "skep.io/container.stdin"
	labelStdinOnce    = "skep.io/container.stdin-once"
	labelHostPID      = "skep.io/container.host-pid"
	labelUser         = "skep.io/container.user"
	labelTermPolicy   = "skep.io/container.termination-message-policy"
)

// sandboxAnnotation is the annotation by which containerd's runc shim groups tasks: all containers
// with the same value share one shim process.
const sandboxAnnotation = "io.kubernetes.cri.sandbox-id"

func (c *Container) labels() map[string]string {
	user := ""
	if c.User != nil {
		user = strings.Join(append([]string{id(c.User.UID), id(c.User.GID)}, ids(c.User.Groups)...), ",")
	}
	return map[string]string{
		labelUser:         user,
		labelPodNamespace: c.PodNamespace,
		labelPodName:      c.PodName,
		labelPodUID:       c.PodUID,
		labelName:         c.Name,
		labelAttempt:      strconv.Itoa(c.Attempt),
		labelSpecHash:     c.SpecHash,
		labelImageID:      c.ImageID,
		labelLogPath:      c.LogPath,
		labelCgroup:       c.CgroupPath,
		labelStopSignal:   c.StopSignal,
		labelTerminal:     strconv.FormatBool(c.Terminal),
		labelStdin:        strconv.FormatBool(c.Stdin),
		labelStdinOnce:    strconv.FormatBool(c.StdinOnce),
		labelHostPID:      strconv.FormatBool(c.HostPID),
		labelTermPolicy:   c.TerminationMessagePolicy,
	}
}

func fromLabels(m containers.Container) (Container, error) {
	attempt, err := strconv.Atoi(m.Labels[labelAttempt])
	if err != nil {
		return Container{}, fmt.Errorf("container %s: label %s: %w", m.ID, labelAttempt, err)
	}
	return Container{
		ID:           m.ID,
		PodNamespace: m.Labels[labelPodNamespace],
		PodName:      m.Labels[labelPodName],
		PodUID:       m.Labels[labelPodUID],
		Name:         m.Labels[labelName],
		Attempt:      attempt,
		SpecHash:     m.Labels[labelSpecHash],
		Image:        m.Image,
		ImageID:      m.Labels[labelImageID],
		CgroupPath:   m.Labels[labelCgroup],
		LogPath:      m.Labels[labelLogPath],
		StopSignal:   m.Labels[labelStopSignal],
		Terminal:     m.Labels[labelTerminal] == "true",
		Stdin:        m.Labels[labelStdin] == "true",
		StdinOnce:    m.Labels[labelStdinOnce] == "true",
		HostPID:      m.Labels[labelHostPID] == "true",
		User:         userOfLabel(m.Labels[labelUser]),
		State:        Created,
		CreatedAt:    m.CreatedAt,

		TerminationMessagePolicy: m.Labels[labelTermPolicy],
	}, nil
}

func id(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

func ids(list []uint32) (texts []string) {
	for _, n := range list {
		texts = append(texts, id(n))
	}
	return texts
}

// userOfLabel reads a label; nil if it is not one of ours.
func userOfLabel(label string) *User {
	var list []uint32
	for text := range strings.SplitSeq(label, ",") {
		n, ok := parseID(text)
		if !ok {
			return nil
		}
		list = append(list, n)
	}
	if len(list) < 2 {
		return nil
	}
	return &User{UID: list[0], GID: list[1], Groups: list[2:]}
}

// NewID returns a container ID in containerd's usual form.
func NewID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// PodDir is the pod's folder that survives a reboot.
func (r *Runtime) PodDir(podUID string) string {
	return filepath.Join(r.cfg.StateDir, "pods", podUID)
}

// VolumeRecordDir is the folder of the pod's volume records, which last until a reboot.
func (r *Runtime) VolumeRecordDir(podUID string) string {
	return filepath.Join(r.cfg.RunDir, "volumes", podUID)
}

// LogPath is the log file of an attempt.
func (r *Runtime) LogPath(podUID, container string, attempt int) string {
	return filepath.Join(r.PodDir(podUID), "logs", container, strconv.Itoa(attempt)+".log")
}

func (r *Runtime) recordPath(c *Container) string {
	return filepath.Join(r.PodDir(c.PodUID), "containers", fmt.Sprintf("%s.%d.json", c.Name, c.Attempt))
}

func (r *Runtime) messagePath(c *Container) string {
	return filepath.Join(r.PodDir(c.PodUID), "containers", fmt.Sprintf("%s.%d.message", c.Name, c.Attempt))
}

// saveRecord writes the container's present state: a later call writes a newer state, in whatever
// order the callers began.
func (r *Runtime) saveRecord(id string) error {
	r.records.Lock()
	defer r.records.Unlock()
	c, ok := r.Container(id)
	if !ok {
		return nil // forgotten
	}
	return r.writeRecord(&c)
}

// writeRecord replaces the container's record. The record of an exit is synced to disk: the task,
// which also has the exit, is deleted next. The record of a running container may be lost if the
// host loses power, which also ends the container.
func (r *Runtime) writeRecord(c *Container) error {
	path := r.recordPath(c)
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return fmt.Errorf("container record: %w", err)
	}
	if c.State == Exited {
		err = durable.WriteFile(path, data, 0o600)
	} else {
		err = durable.Replace(path, data, 0o600, false)
	}
	if err != nil {
		return fmt.Errorf("container record: %w", err)
	}
	return nil
}

// readRecords returns every record on disk by container ID; an unreadable one is removed, since
// only containerd then has its container's state.
func (r *Runtime) readRecords() map[string]Container {
	records := map[string]Container{}
	paths, _ := filepath.Glob(filepath.Join(r.cfg.StateDir, "pods", "*", "containers", "*.json"))
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		var c Container
		if err := json.Unmarshal(data, &c); err != nil || c.ID == "" {
			slog.Warn("container record cannot be read; containerd is asked instead", "path", path, "size", len(data), "err", err)
			_ = os.Remove(path)
			continue
		}
		records[c.ID] = c
	}
	return records
}
