package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes"
	"k8s.io/kubectl/pkg/util/templates"

	skepv1 "github.com/skep-io/skep/api/v1"
)

func newDataplaneCommand(config genericclioptions.RESTClientGetter, streams genericiooptions.IOStreams) *cobra.Command {
	command := &cobra.Command{
		Use:   "dataplane COMMAND",
		Short: "Look into the service maps of the nodes' kernels",
		Args:  cobra.NoArgs,
		RunE:  showHelp,
	}
	var nodes []string
	var within time.Duration
	verify := &cobra.Command{
		Use:   "verify [--node NODE]",
		Short: "Say whether every node's maps hold what the API says, and where not",
		Long: templates.LongDesc(`
			Compare every node's service maps with what the API says they should hold. A
			difference counts if it is there for as long as --within: changes take a few
			milliseconds to reach the nodes. Exits with 1 if there is one, or if a node
			does not answer.`),
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			client, err := clientOf(config)
			if err != nil {
				return err
			}
			return verifyNodes(command.Context(), client, streams.Out, nodes, within)
		},
	}
	verify.Flags().StringSliceVar(&nodes, "node", nil, "This node only; may be repeated")
	verify.Flags().DurationVar(&within, "within", 2*time.Second, "How long a difference may last")
	dump := &cobra.Command{
		Use:   "dump NODE",
		Short: "Print a node's service maps as JSON",
		Args:  one("node"),
		RunE: func(command *cobra.Command, args []string) error {
			client, err := clientOf(config)
			if err != nil {
				return err
			}
			return errors.Join(askNodes(command.Context(), client, skepv1.PathDataplane, args, func(_ string, document []byte) error {
				_, err := fmt.Fprintf(streams.Out, "%s\n", document)
				return err
			})...)
		},
	}
	command.AddCommand(verify, dump, newEventsCommand(config, streams))
	return command
}

// verifyNodes compares until nothing differs or the time is over, and prints the
// last differences.
func verifyNodes(ctx context.Context, client kubernetes.Interface, out io.Writer, nodes []string, within time.Duration) error {
	for begin := time.Now(); ; {
		found, unheard := compareNodes(ctx, client, nodes)
		differs := len(unheard) > 0
		for _, f := range found {
			differs = differs || len(f.Differences) > 0
		}
		if differs && time.Since(begin) < within {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(min(within/10+time.Millisecond, within)):
			}
			continue
		}
		return reportNodes(out, found, unheard)
	}
}

func compareNodes(ctx context.Context, client kubernetes.Interface, nodes []string) (found []skepv1.Verification, unheard []error) {
	unheard = askNodes(ctx, client, skepv1.PathVerify, nodes, func(_ string, document []byte) error {
		var v skepv1.Verification
		if err := json.Unmarshal(document, &v); err != nil {
			return err
		}
		found = append(found, v)
		return nil
	})
	slices.SortFunc(found, func(a, b skepv1.Verification) int { return strings.Compare(a.Node, b.Node) })
	return found, unheard
}

func reportNodes(out io.Writer, found []skepv1.Verification, unheard []error) error {
	differences := 0
	for _, f := range found {
		if len(f.Differences) == 0 {
			fmt.Fprintf(out, "%s: %d service ports, as the API says\n", f.Node, f.Services)
			continue
		}
		differences += len(f.Differences)
		fmt.Fprintf(out, "%s: %d service ports, %d differences\n", f.Node, f.Services, len(f.Differences))
		for _, d := range f.Differences {
			fmt.Fprintf(out, "  %s\n", d)
		}
	}
	if differences > 0 {
		unheard = append(unheard, fmt.Errorf("the maps of nodes differ from the API in %d places", differences))
	}
	return errors.Join(unheard...)
}
