package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/skep-io/skep/agent"
	"github.com/skep-io/skep/agent/logs"
	"github.com/skep-io/skep/cmd/daemon"
	"github.com/skep-io/skep/cmd/privilege"
	"github.com/skep-io/skep/dataplane/service"
)

// newLogsCommand runs the process that writes containers' logs; the agent starts it, and it outlives the
// agent.
func newLogsCommand() *cobra.Command {
	var runDir string
	command := &cobra.Command{
		Use: "logs", Hidden: true, Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		Short: "Write containers' logs (started by the agent)",
		RunE: func(command *cobra.Command, _ []string) error {
			if err := daemon.SetUpLog("info"); err != nil {
				return err
			}
			if err := privilege.LogWriter.Keep(); err != nil {
				return err
			}
			// A terminal that is closed must not end it.
			signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
			err := logs.Serve(command.Context(), runDir, version, slog.Default(), logs.Ready)
			if errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		},
	}
	command.Flags().StringVar(&runDir, "run-dir", "/run/skep-agent", "The agent's folder for sockets")
	return command
}

func newDataplaneCommand() *cobra.Command {
	command := &cobra.Command{Use: "dataplane", Short: "Look at the kernel's service tables"}
	var pins string
	dump := &cobra.Command{
		Use: "dump", Short: "Print services, backends and counters as JSON", Args: cobra.NoArgs,
		Long: `dump prints what the kernel's service tables hold, whether or not the agent runs:
services with their addresses and the backends that take turns, backends with their
nodes and states, and a counter for every way that a connection can go.`,
		Example:      "  skep-agent dataplane dump | jq '.services[] | {name, slots}'",
		SilenceUsage: true, SilenceErrors: true,
		RunE: func(command *cobra.Command, _ []string) error {
			d, err := service.DumpPinned(pins)
			if err != nil {
				return err
			}
			encoder := json.NewEncoder(command.OutOrStdout())
			encoder.SetIndent("", "  ")
			return encoder.Encode(d)
		},
	}
	dump.Flags().StringVar(&pins, "bpf-fs", "/sys/fs/bpf/skep", "Folder of the BPF pins")
	command.AddCommand(dump)
	return command
}

func newCleanupCommand() *cobra.Command {
	o := &options{}
	command := &cobra.Command{
		Use: "cleanup", Short: "Remove everything that the agent made on this host", Args: cobra.NoArgs,
		Long: `cleanup ends all pods of this host and removes what agents made on it: containers,
network interfaces, routes, the nftables table, BPF programs and maps, cgroups, and
the state and run folders with the node's certificate, logs and images. Stop the
agent first. The Node object is not touched: kubectl delete node NAME.`,
		SilenceUsage: true, SilenceErrors: true,
		RunE: func(command *cobra.Command, _ []string) error {
			if err := daemon.SetUpLog(o.logLevel); err != nil {
				return err
			}
			cfg, err := o.hostConfig()
			if err != nil {
				return err
			}
			if err := agent.Cleanup(command.Context(), cfg); err != nil {
				return fmt.Errorf("not everything was removed; run it again when that is corrected: %w", err)
			}
			fmt.Fprintln(os.Stderr, "skep-agent: this host is clean")
			return nil
		},
	}
	o.hostFlags(command)
	return command
}
