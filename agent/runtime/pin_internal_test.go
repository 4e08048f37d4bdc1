package runtime

import (
	"os"
	"testing"
)

// A PID that the kernel has given to another process is not taken for the container's.
func TestProcessOfAnother(t *testing.T) {
	f, err := openOfProcess(&Container{ID: "0123", Pid: os.Getpid()}, "ns/pid")
	if err == nil {
		f.Close()
		t.Error("this test's process was taken for a container's")
	}
}

func TestInCgroup(t *testing.T) {
	for cgroups, want := range map[string]bool{
		"12:pids:/skep/pod1/0123\n0::/other\n": true,
		"0::/skep/pod1/0123/nested\n":          true,
		"0::/../../pod1/0123\n":                true,
		"0::/skep/pod1/01234\n":                false,
		"0::/\n1:name=0123:/\n":                false,
		"":                                     false,
	} {
		if got := inCgroup(cgroups, "0123"); got != want {
			t.Errorf("%q: %v", cgroups, got)
		}
	}
}
