// Command skep is the command line of Skep: kubectl's verbs, from kubectl's own
// packages, and Skep's own commands for clusters on one machine and for images.
//
// It has no logic of its own: verbs are in k8s.io/kubectl, clusters in
// cmd/skep/cluster.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd/util"

	"github.com/skep-io/skep/cmd/skep/cluster"
)

// version is stamped by the Makefile from git.
var version = "dev"

func main() {
	// A host's first process must not run the set-up of the rest of this program.
	if len(os.Args) == 3 && os.Args[1] == "node-init" {
		if err := cluster.RunInit(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "skep node-init:", err)
			os.Exit(1)
		}
		return
	}
	if err := defaultKubeconfig(os.Args[1:]); err != nil {
		util.CheckErr(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends what does not heed the first, as some of kubectl's verbs
	root := newRootCommand(os.Args)
	root.SetContext(ctx)
	err := cli.RunNoErrOutput(root)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		os.Exit(exit.ExitCode()) // of `skep node exec`: its command has said what was wrong
	}
	util.CheckErr(err)
}
