package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/skep-io/skep/controlplane"
	"github.com/skep-io/skep/controlplane/etcd"
)

func newRestoreCommand() *cobra.Command {
	var dataDir string
	command := &cobra.Command{
		Use:   "restore SNAPSHOT",
		Short: "Make etcd's data from a snapshot, in a data directory without any",
		Long: `restore makes the data of skepd's own etcd from a snapshot that 'skep etcd snapshot'
has taken. Run it on skepd's host while skepd is stopped. The folder etcd in the data
directory must not hold data: move it away first. Certificates and the other files
beside it stay, so that nodes and kubeconfigs go on.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := etcd.Restore(args[0], dataDir); err != nil {
				return err
			}
			fmt.Printf("%s is restored into %s: start skepd\n", args[0], dataDir)
			return nil
		},
	}
	command.Flags().StringVar(&dataDir, "data-dir", controlplane.DefaultDataDir, "skepd's data directory")
	return command
}
