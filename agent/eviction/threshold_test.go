package eviction

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestParse(t *testing.T) {
	all, err := Parse(Settings{
		Hard: "memory.available<1Gi, nodefs.available<10%,nodefs.inodesFree<0%", Soft: "memory.available<2Gi",
		SoftGracePeriod: "memory.available=90s", MinimumReclaim: "memory.available=500Mi,nodefs.available=1%",
	})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]Threshold{}
	for _, th := range all {
		key := string(th.Signal)
		if !th.Hard {
			key += " soft"
		}
		th.Value.text, th.MinReclaim.text = "", ""
		got[key] = th
	}
	for key, want := range map[string]Threshold{
		"memory.available":            {Signal: MemoryAvailable, Hard: true, Value: Value{Quantity: 1 << 30}, MinReclaim: Value{Quantity: 500 << 20}},
		"memory.available soft":       {Signal: MemoryAvailable, Value: Value{Quantity: 2 << 30}, Grace: 90 * time.Second, MinReclaim: Value{Quantity: 500 << 20}},
		"allocatableMemory.available": {Signal: AllocatableMemory, Hard: true, Value: Value{Quantity: 1 << 30}, MinReclaim: Value{Quantity: 500 << 20}},
		"nodefs.available":            {Signal: NodeFsAvailable, Hard: true, Value: Value{Part: 0.1}, MinReclaim: Value{Part: 0.01}},
	} {
		if got[key] != want {
			t.Errorf("%s: %+v, want %+v", key, got[key], want)
		}
		delete(got, key)
	}
	if len(got) > 0 {
		t.Errorf("besides: %v", got)
	}
	if _, err := Parse(Settings{Hard: DefaultHard}); err != nil {
		t.Errorf("the default: %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	for want, s := range map[string]Settings{
		"unsupported eviction signal disk":  {Hard: "disk<1Gi"},
		"must be positive":                  {Hard: "memory.available<0"},
		"grace period must be specified":    {Soft: "memory.available<1Gi"},
		"set it once":                       {Hard: "memory.available<1Gi,memory.available<2Gi"},
		"give SIGNAL<VALUE":                 {Hard: "memory.available"},
		"from 0% to 100%":                   {Hard: "memory.available<101%"},
		"quantities must match":             {Hard: "memory.available<much"},
		"must be a positive value":          {Soft: "memory.available<1Gi", SoftGracePeriod: "memory.available=-1s"},
		"--eviction-minimum-reclaim \"memo": {Hard: DefaultHard, MinimumReclaim: "memory.available=x"},
	} {
		if _, err := Parse(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", s, err, want)
		}
	}
}

func TestReserved(t *testing.T) {
	all, err := Parse(Settings{Hard: DefaultHard, Soft: "memory.available<1Gi", SoftGracePeriod: "memory.available=1m"})
	if err != nil {
		t.Fatal(err)
	}
	kept := Reserved(all, corev1.ResourceList{
		corev1.ResourceMemory: resource.MustParse("4Gi"), corev1.ResourceEphemeralStorage: resource.MustParse("1000"),
	})
	memory, disk := kept[corev1.ResourceMemory], kept[corev1.ResourceEphemeralStorage]
	if memory.Value() != 100<<20 || disk.Value() != 100 || len(kept) != 2 {
		t.Errorf("kept %v", kept)
	}
}
