package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/kubectl/pkg/util/templates"

	skepv1 "github.com/skep-io/skep/api/v1"
)

// newNetworkCommand shows the ranges of pods' addresses and adds further ones.
func newNetworkCommand(config genericclioptions.RESTClientGetter, streams genericiooptions.IOStreams) *cobra.Command {
	command := &cobra.Command{
		Use:   "network COMMAND",
		Short: "Show the ranges of pods' addresses, and add one",
		Long: templates.LongDesc(`
			Show the ranges that nodes get their parts of, and add one when the cluster
			needs more nodes than they have parts. Nodes, pods and connections that are
			there are not touched.`),
		Example: templates.Examples(`
			# Make room for 256 more nodes
			skep network add-pod-range 10.245.0.0/16`),
		Args: cobra.NoArgs,
		RunE: showHelp,
	}
	command.AddCommand(
		&cobra.Command{
			Use: "list", Aliases: []string{"ls"}, Short: "Show the ranges and how many nodes have a part of each", Args: cobra.NoArgs,
			RunE: func(command *cobra.Command, _ []string) error {
				client, err := clientOf(config)
				if err != nil {
					return err
				}
				data, err := client.CoreV1().RESTClient().Get().AbsPath(skepv1.PathPodRanges).DoRaw(command.Context())
				if err != nil {
					return err
				}
				return printPodRanges(streams.Out, data)
			},
		},
		&cobra.Command{
			Use: "add-pod-range CIDR", Short: "Add a range that nodes get their parts of", Args: one("range"),
			Long: templates.LongDesc(`
				Add a range of pods' addresses. Nodes that join get a part of it, as large as
				those of the other ranges of its family, once those are used up. No range can be
				taken back. Agents of a version that does not know added ranges reach no pods in
				them: update all agents first.`),
			RunE: func(command *cobra.Command, args []string) error {
				prefix, err := netip.ParsePrefix(args[0])
				if err != nil {
					return fmt.Errorf("%q is not a range like 10.245.0.0/16", args[0])
				}
				client, err := clientOf(config)
				if err != nil {
					return err
				}
				body, err := json.Marshal(skepv1.PodRange{CIDR: prefix})
				if err != nil {
					return err
				}
				result := client.CoreV1().RESTClient().Post().AbsPath(skepv1.PathPodRanges).Body(body).Do(command.Context())
				if err := result.Error(); err != nil { // which has the server's words, and Raw's error has not
					return err
				}
				data, err := result.Raw()
				if err != nil {
					return err
				}
				return printPodRanges(streams.Out, data)
			},
		},
	)
	return command
}

func printPodRanges(out io.Writer, data []byte) error {
	var list skepv1.PodRangeList
	if err := json.Unmarshal(data, &list); err != nil {
		return fmt.Errorf("unreadable answer of the API server: %w", err)
	}
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "RANGE\tNODE GETS\tNODES\tROOM FOR\tADDED")
	for _, r := range list.Ranges {
		fmt.Fprintf(table, "%s\t/%d\t%d\t%d\t%t\n", r.CIDR, r.NodeMask, r.Used, r.Parts, r.Added)
	}
	return table.Flush()
}
