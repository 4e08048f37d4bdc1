package main

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/kubectl/pkg/util/templates"

	"github.com/skep-io/skep/cmd/skep/cluster"
)

// nodeCommand carries the cluster that its subcommands work on.
type nodeCommand struct {
	name, dir string
	streams   genericiooptions.IOStreams
}

func newNodeCommand(streams genericiooptions.IOStreams) *cobra.Command {
	n := &nodeCommand{streams: streams}
	command := &cobra.Command{
		Use:   "node COMMAND NODE",
		Short: "Pull the plug or the cable of a virtual host, or run a command on it",
		Long: templates.LongDesc(`
			Do to a virtual host what happens to real ones: a power failure, a hang, a
			cable cut; or run a command on it. The hosts are node1, node2 and so on.`),
		Example: templates.Examples(`
			# Disconnect a host from the network, and watch its pods move
			skep node cut node2
			skep get pods -o wide -w

			# See a host's service maps
			skep node exec node1 -- ls /sys/fs/bpf/skep`),
		Args: cobra.NoArgs,
		RunE: showHelp,
	}
	command.PersistentFlags().StringVar(&n.name, "name", cluster.DefaultName, "Name of the cluster")
	command.PersistentFlags().StringVar(&n.dir, "dir", "", "State folder of the cluster; $HOME/.skep/NAME if empty")
	command.AddCommand(
		n.verb("kill", "Pull a host's plug: everything on it dies, nothing is cleaned up", "killed", (*cluster.Node).Kill),
		n.verb("start", "Boot a host again after 'kill'", "started", (*cluster.Node).Start),
		n.verb("pause", "Stop a host's processes where they are", "paused", (*cluster.Node).Pause),
		n.verb("resume", "Let a paused host run on", "resumed", (*cluster.Node).Resume),
		n.verb("cut", "Disconnect a host from the network", "cut off", func(node *cluster.Node, _ context.Context) error { return node.Cut() }),
		n.verb("heal", "Connect a host to the network again", "healed", func(node *cluster.Node, _ context.Context) error { return node.Heal() }),
		n.exec(), n.list(),
	)
	return command
}

func (n *nodeCommand) cluster() (*cluster.Cluster, error) {
	dir := n.dir
	if dir == "" {
		if err := cluster.ValidateName(n.name); err != nil {
			return nil, err
		}
		var err error
		if dir, err = cluster.DefaultDir(n.name); err != nil {
			return nil, err
		}
	}
	return cluster.Load(dir)
}

func (n *nodeCommand) find(name string) (*cluster.Node, error) {
	c, err := n.cluster()
	if err != nil {
		return nil, err
	}
	return c.Node(name)
}

func (n *nodeCommand) verb(name, short, done string, act func(*cluster.Node, context.Context) error) *cobra.Command {
	return &cobra.Command{
		Use: name + " NODE", Short: short, Args: one("node"),
		RunE: func(command *cobra.Command, args []string) error {
			node, err := n.find(args[0])
			if err != nil {
				return err
			}
			if err := act(node, command.Context()); err != nil {
				return err
			}
			fmt.Fprintln(n.streams.Out, node.Name, done)
			return nil
		},
	}
}

func (n *nodeCommand) exec() *cobra.Command {
	return &cobra.Command{
		Use:   "exec NODE -- COMMAND [ARGUMENT...]",
		Short: "Run a command on a host, in its namespaces and its cgroup",
		Args: func(command *cobra.Command, args []string) error {
			if len(args) < 2 || command.ArgsLenAtDash() > 1 {
				return fmt.Errorf("want a node and a command: %s", command.UseLine())
			}
			return nil
		},
		RunE: func(command *cobra.Command, args []string) error {
			node, err := n.find(args[0])
			if err != nil {
				return err
			}
			return node.Exec(command.Context(), cluster.ExecOptions{
				Stdin: n.streams.In, Stdout: n.streams.Out, Stderr: n.streams.ErrOut,
			}, args[1:]...)
		},
	}
}

func (n *nodeCommand) list() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the hosts, their addresses and whether they run", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := n.cluster()
			if err != nil {
				return err
			}
			nodes, err := c.Nodes()
			if err != nil {
				return err
			}
			table := tabwriter.NewWriter(n.streams.Out, 0, 0, 3, ' ', 0)
			fmt.Fprintln(table, "NODE\tADDRESS\tPOWER\tLOG")
			for _, node := range nodes {
				power, err := node.Power()
				if err != nil {
					return err
				}
				fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", node.Name, node.Addr, power, node.LogPath())
			}
			return table.Flush()
		},
	}
}
