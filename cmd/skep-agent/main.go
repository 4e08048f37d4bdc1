// Command skep-agent makes a Linux host a node of a Skep cluster. It contains only the flags.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/skep-io/skep/agent"
	"github.com/skep-io/skep/cmd/daemon"
	"github.com/skep-io/skep/cmd/oomscore"
	"github.com/skep-io/skep/cmd/privilege"
)

// collectAt is the garbage, in percent of the memory in use, at which Go collects it, unless GOGC
// is set. Agents keep much, change little, and share the host with pods.
const collectAt = 40

// version is stamped by the Makefile from git.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := newCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "skep-agent:", err)
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	o := &options{}
	command := &cobra.Command{
		Use:   "skep-agent",
		Short: "Run this host's pods and its part of the cluster's network",
		Long: `skep-agent makes this host a node: it joins the cluster with the join token (once;
afterwards its certificate is enough), runs the pods that are scheduled here on
containerd, connects them, and keeps the kernel's service tables.

Stopping it stops no pod, and the next start adopts everything. To take a host
out of the cluster, delete its node, stop the agent and run skep-agent cleanup.`,
		Example: `  skep-agent --server https://192.168.1.10:6443 --token skep2.…
  skep-agent dataplane dump | jq '.services[]'`,
		Args: cobra.NoArgs, Version: version, SilenceUsage: true, SilenceErrors: true,
		RunE: func(command *cobra.Command, _ []string) error {
			if err := daemon.SetUpLog(o.logLevel); err != nil {
				return err
			}
			oomscore.Lower()
			if o.configFile != "" {
				if err := applyConfigFile(o.configFile, command.Flags()); err != nil {
					return err
				}
			}
			cfg, err := o.config()
			if err != nil {
				return err
			}
			if err := privilege.Agent.Keep(); err != nil {
				return err
			}
			if os.Getenv("GOGC") == "" {
				debug.SetGCPercent(collectAt)
			}
			cfg.Ready = func() { daemon.Notify("READY=1") }
			defer daemon.Notify("STOPPING=1")
			return agent.Run(command.Context(), cfg)
		},
	}
	command.SetVersionTemplate("skep-agent {{.Version}}\n")
	o.hostFlags(command)
	o.clusterFlags(command)
	command.AddCommand(newLogsCommand(), newDataplaneCommand(), newCleanupCommand(), newVersionCommand())
	return command
}

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(command *cobra.Command, _ []string) {
			fmt.Fprintln(command.OutOrStdout(), "skep-agent", version)
		},
	}
}
