package main

import (
	"io"
	"strings"
	"testing"
)

func TestWrongArguments(t *testing.T) {
	for line, want := range map[string]string{
		"image load":             "want one image archive, not 0: skep image load FILE",
		"image load a.tar b.tar": "want one image archive, not 2: skep image load FILE",
		"image lod a.tar":        `unknown command "lod" for "skep image"`,
		"node kill":              "want one node, not 0: skep node kill NODE",
		"node kil node1":         `unknown command "kil" for "skep node"`,
		"node exec node1":        "want a node and a command: skep node exec NODE -- COMMAND",
		"image load /nonexistent.tar --kubeconfig /dev/null": "/nonexistent.tar: no such file or directory",
		"up now": `unknown command "now" for "skep up"`,
	} {
		arguments := strings.Fields(line)
		root := newRootCommand(append([]string{"skep"}, arguments...))
		root.SetArgs(arguments)
		root.SetOut(io.Discard)
		root.SetErr(io.Discard)
		root.SilenceErrors, root.SilenceUsage = true, true
		if err := root.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("skep %s: %v, want %s", line, err, want)
		}
	}
}
