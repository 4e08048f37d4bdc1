package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// settings makes the verifier see the code that runs, where a constant's value
// in the object would cut some off.
var settings = map[string]any{
	"skep_hooked_cgroup": uint64(1),
}

// smallMap is enough entries for any program to be verified over.
const smallMap = 4096

// measure loads every program of every object below a folder.
func measure(folder string) (*table, error) {
	objects, err := filepath.Glob(filepath.Join(folder, "*_bpfel.o"))
	if err != nil {
		return nil, err
	}
	deeper, err := filepath.Glob(filepath.Join(folder, "*", "*_bpfel.o"))
	if err != nil {
		return nil, err
	}
	objects = append(objects, deeper...)
	if len(objects) == 0 {
		return nil, fmt.Errorf("no objects in %s", folder)
	}
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return nil, fmt.Errorf("read the kernel's types: %w", err)
	}
	t := &table{kernel: kernelSeries(), lacking: map[string]string{}}
	for _, path := range objects {
		name := strings.TrimSuffix(filepath.Base(path), "_bpfel.o")
		if err := t.measureObject(kernel, name, path); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	sort.Slice(t.programs, func(i, j int) bool { return t.programs[i].name < t.programs[j].name })
	return t, nil
}

func (t *table) measureObject(kernel *btf.Spec, object, path string) error {
	spec, err := ebpf.LoadCollectionSpec(path)
	if err != nil {
		return err
	}
	for name, value := range settings {
		if v := spec.Variables[name]; v != nil {
			if err := v.Set(value); err != nil {
				return fmt.Errorf("set %s: %w", name, err)
			}
		}
	}
	for _, m := range spec.Maps {
		if len(m.Contents) == 0 && m.MaxEntries > smallMap {
			m.MaxEntries = smallMap
		}
	}
	for name, p := range spec.Programs {
		if kfunc := lacking(kernel, p); kfunc != "" {
			t.lacking[object+"/"+name] = kfunc
			delete(spec.Programs, name)
		}
	}
	collection, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
		Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats},
	})
	if verifier := (*ebpf.VerifierError)(nil); errors.As(err, &verifier) {
		return fmt.Errorf("%+v", verifier)
	}
	if err != nil {
		return err
	}
	defer collection.Close()
	for name, loaded := range collection.Programs {
		p, err := measureProgram(loaded)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		p.name = object + "/" + name
		p.instructions = len(spec.Programs[name].Instructions)
		t.programs = append(t.programs, p)
	}
	return nil
}

var statistics = regexp.MustCompile(`processed (\d+) insns .*total_states (\d+) peak_states (\d+)`)

func measureProgram(loaded *ebpf.Program) (program, error) {
	found := statistics.FindStringSubmatch(loaded.VerifierLog)
	if found == nil {
		return program{}, fmt.Errorf("the verifier said nothing of its work: %q", loaded.VerifierLog)
	}
	var numbers [3]int
	for i, text := range found[1:] {
		n, err := strconv.Atoi(text)
		if err != nil {
			return program{}, err
		}
		numbers[i] = n
	}
	info, err := loaded.Info()
	if err != nil {
		return program{}, err
	}
	size, err := info.JitedSize()
	if err != nil {
		return program{}, fmt.Errorf("size of the machine code: %w", err)
	}
	return program{verified: numbers[0], states: numbers[1], peak: numbers[2], machine: int(size)}, nil
}

// kernelSeries is "6.18": other series verify in other ways.
func kernelSeries() string {
	var uts unix.Utsname
	if unix.Uname(&uts) != nil {
		return "unknown"
	}
	parts := strings.SplitN(unix.ByteSliceToString(uts.Release[:]), ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}
