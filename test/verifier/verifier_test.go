package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestNoProgramHasGrown(t *testing.T) {
	now, err := measure("../../bpf")
	if err != nil {
		t.Fatal(err)
	}
	committed, err := readTable("programs.txt")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("on kernel %s, beside programs.txt of kernel %s:\n%s", now.kernel, committed.kernel, now.beside(committed))
	for _, err := range now.grown(committed) {
		t.Error(err)
	}
}

func TestGrowthIsSeen(t *testing.T) {
	committed := &table{kernel: "6.18", programs: []program{
		{"a/one", 1000, 10000, 500, 300, 5000},
		{"a/gone", 10, 10, 1, 1, 10},
	}}
	path := filepath.Join(t.TempDir(), "programs.txt")
	if err := os.WriteFile(path, []byte(committed.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	read, err := readTable(path)
	if err != nil || read.String() != committed.String() {
		t.Fatalf("read back %v, %v", read, err)
	}
	cases := []struct {
		name, kernel string
		now          program
		want         []string
	}{
		{"the same", "6.18", program{"a/one", 1000, 10000, 500, 300, 5000}, nil},
		{"a fifth more", "6.18", program{"a/one", 1200, 12000, 600, 360, 6000}, nil},
		{"more", "6.18", program{"a/one", 1201, 12001, 601, 361, 6001},
			[]string{"1201 instructions", "12001 verified", "601 states", "361 peak", "6001 bytes"}},
		{"more on another kernel", "6.1", program{"a/one", 1201, 12001, 601, 361, 6001}, []string{"1201 instructions"}},
		{"new", "6.18", program{"a/new", 1, 1, 1, 1, 1}, []string{"a/new is not in", "a/one is in programs.txt"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			now := &table{kernel: c.kernel, programs: []program{c.now}}
			var got []string
			for _, err := range now.grown(read) {
				if !strings.Contains(err.Error(), "a/gone") {
					got = append(got, err.Error())
				}
			}
			if len(got) != len(c.want) {
				t.Fatalf("%q, want %q", got, c.want)
			}
			for i := range got {
				if !strings.Contains(got[i], c.want[i]) {
					t.Errorf("%q, want %q", got[i], c.want[i])
				}
			}
		})
	}
}
