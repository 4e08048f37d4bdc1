package eviction

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Signal is what is measured of a node, by kubelet's names.
type Signal string

// The signals. AllocatableMemory is the memory that all pods together may still use; its threshold follows from
// MemoryAvailable's.
const (
	MemoryAvailable   Signal = "memory.available"
	AllocatableMemory Signal = "allocatableMemory.available"
	NodeFsAvailable   Signal = "nodefs.available"
	NodeFsInodesFree  Signal = "nodefs.inodesFree"
	ImageFsAvailable  Signal = "imagefs.available"
	ImageFsInodesFree Signal = "imagefs.inodesFree"
	PIDAvailable      Signal = "pid.available"
)

var signals = []Signal{
	MemoryAvailable, AllocatableMemory, NodeFsAvailable, NodeFsInodesFree, ImageFsAvailable, ImageFsInodesFree, PIDAvailable,
}

// Value is an amount, or a part of the capacity.
type Value struct {
	Quantity int64
	Part     float64 // 0: Quantity counts
	text     string
}

// Of is the amount for a capacity.
func (v Value) Of(capacity int64) int64 {
	if v.Part > 0 {
		return int64(float64(capacity) * v.Part)
	}
	return v.Quantity
}

// Threshold is met while less than Value is available.
type Threshold struct {
	Signal     Signal
	Value      Value
	Grace      time.Duration // how long it must have been met; 0 for a hard one
	MinReclaim Value         // what must be available beyond Value before it counts as no longer met
	Hard       bool
}

// Settings are the values of the flags with kubelet's names: SIGNAL<VALUE,… and SIGNAL=VALUE,….
type Settings struct {
	Hard, Soft, SoftGracePeriod, MinimumReclaim string
}

// DefaultHard is kubelet's default and, for processes, for which kubelet has none, a twentieth.
const DefaultHard = "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,imagefs.inodesFree<5%,pid.available<5%"

// Parse checks the settings and combines them. As with kubelet, the given thresholds replace all default ones.
func Parse(s Settings) ([]Threshold, error) {
	hard, err := parseThresholds("--eviction-hard", s.Hard, true)
	if err != nil {
		return nil, err
	}
	soft, err := parseThresholds("--eviction-soft", s.Soft, false)
	if err != nil {
		return nil, err
	}
	graces := map[Signal]time.Duration{}
	err = pairs("--eviction-soft-grace-period", s.SoftGracePeriod, "=", func(signal Signal, text string) error {
		grace, err := time.ParseDuration(text)
		if err == nil && grace < 0 {
			err = fmt.Errorf("must be a positive value")
		}
		graces[signal] = grace
		return err
	})
	if err != nil {
		return nil, err
	}
	for i := range soft {
		grace, ok := graces[soft[i].Signal]
		if !ok {
			return nil, fmt.Errorf("--eviction-soft: grace period must be specified for the soft eviction threshold %s: give it in --eviction-soft-grace-period", soft[i].Signal)
		}
		soft[i].Grace = grace
	}
	all := append(hard, soft...)
	err = pairs("--eviction-minimum-reclaim", s.MinimumReclaim, "=", func(signal Signal, text string) error {
		value, err := parseValue(text)
		for i := range all {
			if all[i].Signal == signal {
				all[i].MinReclaim = value
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, t := range all {
		if t.Hard && t.Signal == MemoryAvailable && !slices.ContainsFunc(all, func(o Threshold) bool { return o.Signal == AllocatableMemory }) {
			t.Signal = AllocatableMemory
			all = append(all, t)
		}
	}
	return all, nil
}

func parseThresholds(flag, text string, hard bool) (list []Threshold, err error) {
	err = pairs(flag, text, "<", func(signal Signal, text string) error {
		if text == "0%" || text == "100%" {
			return nil // kubelet's way to disable one
		}
		value, err := parseValue(text)
		if err == nil && value.Part == 0 && value.Quantity == 0 {
			err = fmt.Errorf("eviction threshold %s must be positive: %s", signal, text)
		}
		list = append(list, Threshold{Signal: signal, Value: value, Hard: hard})
		return err
	})
	return list, err
}

// pairs reads SIGNAL<VALUE,… or, with sign "=", SIGNAL=VALUE,….
func pairs(flag, text, sign string, each func(signal Signal, value string) error) error {
	seen := map[Signal]bool{}
	for pair := range strings.SplitSeq(text, ",") {
		if pair = strings.TrimSpace(pair); pair == "" {
			continue
		}
		i := strings.IndexAny(pair, sign+"=")
		if i < 0 {
			return fmt.Errorf("%s %q: give SIGNAL%sVALUE, like memory.available%s100Mi", flag, pair, sign, sign)
		}
		signal, value := Signal(strings.TrimSpace(pair[:i])), strings.TrimSpace(pair[i+1:])
		if !slices.Contains(signals, signal) {
			return fmt.Errorf("%s: unsupported eviction signal %s: it is one of %v", flag, signal, signals)
		}
		if seen[signal] {
			return fmt.Errorf("%s sets %s twice: set it once", flag, signal)
		}
		seen[signal] = true
		if err := each(signal, value); err != nil {
			return fmt.Errorf("%s %q: %w", flag, pair, err)
		}
	}
	return nil
}

func parseValue(text string) (Value, error) {
	v := Value{text: text}
	if number, ok := strings.CutSuffix(text, "%"); ok {
		percent, err := strconv.ParseFloat(number, 64)
		if err == nil && !(percent >= 0 && percent <= 100) {
			err = fmt.Errorf("a part is from 0%% to 100%%")
		}
		v.Part = percent / 100
		return v, err
	}
	q, err := resource.ParseQuantity(text)
	if err != nil {
		return v, err
	}
	if q.Sign() < 0 {
		return v, fmt.Errorf("must be positive")
	}
	v.Quantity = q.Value()
	return v, nil
}

// Reserved is what a node's hard thresholds reserve from pods: memory, and space on the file system of pods.
func Reserved(thresholds []Threshold, capacity corev1.ResourceList) corev1.ResourceList {
	kept := corev1.ResourceList{}
	for _, t := range thresholds {
		if !t.Hard {
			continue
		}
		for signal, name := range map[Signal]corev1.ResourceName{
			MemoryAvailable: corev1.ResourceMemory, NodeFsAvailable: corev1.ResourceEphemeralStorage,
		} {
			if t.Signal == signal {
				all := capacity[name]
				kept[name] = *resource.NewQuantity(t.Value.Of(all.Value()), resource.BinarySI)
			}
		}
	}
	return kept
}
