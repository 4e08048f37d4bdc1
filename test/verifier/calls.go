package main

import (
	"regexp"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// calls lists the helpers and kfuncs that a program calls, a word before each.
func calls(p *ebpf.ProgramSpec) []string {
	var found []string
	for _, ins := range p.Instructions {
		switch {
		case ins.IsBuiltinCall():
			found = append(found, "helper "+helperName(asm.BuiltinFunc(ins.Constant)))
		case ins.IsKfuncCall(), ins.IsFunctionCall() && strings.HasPrefix(ins.Reference(), "bpf_"):
			found = append(found, "kfunc "+ins.Reference())
		}
	}
	return found
}

// helperName makes bpf_l3_csum_replace of FnL3CsumReplace.
func helperName(f asm.BuiltinFunc) string {
	name := strings.TrimPrefix(f.String(), "Fn")
	name = regexp.MustCompile(`[A-Z]`).ReplaceAllStringFunc(name, func(s string) string { return "_" + strings.ToLower(s) })
	return "bpf" + name
}

// lacking is a kfunc that the program calls and the kernel does not have, or "".
func lacking(kernel *btf.Spec, p *ebpf.ProgramSpec) string {
	for _, call := range calls(p) {
		if kfunc, is := strings.CutPrefix(call, "kfunc "); is {
			if _, err := kernel.AnyTypesByName(kfunc); err != nil {
				return kfunc
			}
		}
	}
	return ""
}
