package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/kubectl/pkg/util/templates"

	"github.com/skep-io/skep/cmd/skep/cluster"
)

func newUpCommand(streams genericiooptions.IOStreams) *cobra.Command {
	o := cluster.Options{Progress: streams.Out}
	var bin string
	command := &cobra.Command{
		Use:   "up",
		Short: "Start a cluster of virtual hosts on this machine",
		Long: templates.LongDesc(`
			Start a cluster on this machine: a control plane, and virtual hosts with an
			agent and a containerd each, on a bridge of their own.

			What runs already is left alone, what died is started again with its data,
			and missing hosts are added. State lies in $HOME/.skep/NAME.`),
		Example: templates.Examples(`
			# Three hosts
			skep up

			# Three servers, of which any one may fail
			skep up --servers 3

			# A second cluster, five hosts in three zones
			skep up --name test --nodes 5 --zones 3`),
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			err := cluster.CheckMachine()
			if err != nil {
				return err
			}
			if bin == "" {
				if bin, err = ownFolder(); err != nil {
					return err
				}
			}
			if o.Bin, err = cluster.BinariesIn(bin); err != nil {
				return err
			}
			begin := time.Now()
			c, err := cluster.Up(command.Context(), o)
			if err != nil {
				return err
			}
			fmt.Fprintf(streams.Out, "Up in %.1f s. Use it with skep, or with any client:\n  export KUBECONFIG=%s\n", time.Since(begin).Seconds(), c.Kubeconfig())
			return nil
		},
	}
	flags := command.Flags()
	clusterFlags(command, &o.Name, &o.Dir)
	flags.IntVar(&o.Nodes, "nodes", 0, "Number of hosts to have; those there are, or 3 in a new cluster, if 0")
	flags.IntVar(&o.Servers, "servers", 0, "Number of servers (skepd) to have, at most 5; those there are, or 1 in a new cluster, if 0")
	flags.IntVar(&o.Zones, "zones", 0, "Spread new hosts over so many zones, by label; none if 0")
	flags.BoolVar(&o.Outbound, "outbound", false, "Let pods reach addresses outside this machine even if that takes turning its IP forwarding on; 'skep down' undoes it. On machines that forward anyhow, pods can always")
	flags.StringVar(&o.LBCIDR, "lb-cidr", "", "Addresses for services of type LoadBalancer, as skepd takes them; some of the hosts' own subnet if empty")
	flags.StringVar(&bin, "bin", "", "Folder of skep, skepd, skep-agent and skep-dns; this program's own if empty")
	return command
}

func newDownCommand(streams genericiooptions.IOStreams) *cobra.Command {
	var name, dir string
	command := &cobra.Command{
		Use:   "down",
		Short: "Remove a cluster that 'up' has started",
		Long: templates.LongDesc(`
			Remove a cluster with everything it has on this machine: processes, cgroups,
			network namespaces, links, mounts, and its data. Also after a crash, and
			harmless if there is no such cluster.`),
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return cluster.Down(command.Context(), name, dir, streams.Out)
		},
	}
	clusterFlags(command, &name, &dir)
	return command
}

func clusterFlags(command *cobra.Command, name, dir *string) {
	command.Flags().StringVar(name, "name", cluster.DefaultName, "Name of the cluster")
	command.Flags().StringVar(dir, "dir", "", "State folder of the cluster; $HOME/.skep/NAME if empty")
}

// ownFolder is where the other programs are expected: beside this one.
func ownFolder() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	self, err = filepath.EvalSymlinks(self)
	return filepath.Dir(self), err
}
