package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/kubectl/pkg/util/templates"

	skepv1 "github.com/skep-io/skep/api/v1"
)

// newServerCommand shows and removes the servers: the skepd that make up the control plane.
func newServerCommand(config genericclioptions.RESTClientGetter, streams genericiooptions.IOStreams) *cobra.Command {
	command := &cobra.Command{
		Use:   "server COMMAND",
		Short: "List and remove the servers of the control plane",
		Long: templates.LongDesc(`
			List the servers, which are the skepd that make up the control plane, and
			remove one for good. One is added on its own host, by skepd --join.`),
		Example: templates.Examples(`
			# Add a server: make a token, and run what is printed on its host
			skep token create --server --print-join-command

			# Remove one whose host is lost
			skep server remove host3`),
		Args: cobra.NoArgs,
		RunE: showHelp,
	}
	command.AddCommand(
		&cobra.Command{
			Use: "list", Aliases: []string{"ls"}, Short: "List the servers and whether each works", Args: cobra.NoArgs,
			RunE: func(command *cobra.Command, _ []string) error {
				client, err := clientOf(config)
				if err != nil {
					return err
				}
				data, err := client.CoreV1().RESTClient().Get().AbsPath(skepv1.PathServers).DoRaw(command.Context())
				if err != nil {
					return err
				}
				return printServers(streams.Out, data)
			},
		},
		&cobra.Command{
			Use: "remove NAME", Aliases: []string{"rm", "delete"}, Short: "Remove a server, dead or alive, or withdraw one that is joining", Args: one("server"),
			Long: templates.LongDesc(`
				Remove a server from the control plane. Its skepd ends; its data folder stays
				and is of no more use. It is refused if the others could not go on without it.`),
			RunE: func(command *cobra.Command, args []string) error {
				client, err := clientOf(config)
				if err != nil {
					return err
				}
				if err := client.CoreV1().RESTClient().Delete().AbsPath(skepv1.PathServers, args[0]).Do(command.Context()).Error(); err != nil {
					return err
				}
				fmt.Fprintf(streams.Out, "server %q removed\n", args[0])
				return nil
			},
		},
	)
	return command
}

func printServers(out io.Writer, data []byte) error {
	var list skepv1.ServerList
	if err := json.Unmarshal(data, &list); err != nil {
		return fmt.Errorf("unreadable answer of the API server: %w", err)
	}
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "NAME\tREADY\tROLE\tURL\tETCD\tMESSAGE")
	or := func(text string) string {
		if text == "" {
			return "-"
		}
		return text
	}
	for _, s := range list.Servers {
		fmt.Fprintf(table, "%s\t%t\t%s\t%s\t%s\t%s\n", s.Name, s.Ready, s.Role, or(s.URL), or(s.PeerURL), or(s.Message))
	}
	return table.Flush()
}
