// Command kubectl is the stock client, built from k8s.io/kubectl, for tests that need it as a program: what works with it
// works with what users have. It adds nothing and changes nothing.
package main

import (
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"

	_ "k8s.io/client-go/plugin/pkg/client/auth"
)

func main() {
	os.Exit(cli.Run(cmd.NewDefaultKubectlCommand()))
}
