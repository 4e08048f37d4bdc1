package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes"
	"k8s.io/kubectl/pkg/util/templates"

	"github.com/skep-io/skep/agent/services"
	"github.com/skep-io/skep/agent/traffic"
	"github.com/skep-io/skep/dataplane/service"
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
			return errors.Join(askNodes(command.Context(), client, "skep/v1/dataplane", args, func(_ string, document []byte) error {
				_, err := fmt.Fprintf(streams.Out, "%s\n", document)
				return err
			})...)
		},
	}
	command.AddCommand(verify, dump, newEventsCommand(config, streams))
	return command
}

// verifyNodes looks until nothing differs or the time is over, and prints what
// the last look found.
func verifyNodes(ctx context.Context, client kubernetes.Interface, out io.Writer, nodes []string, within time.Duration) error {
	for begin := time.Now(); ; {
		expected, err := snapshot(ctx, client)
		if err != nil {
			return err
		}
		found, unheard := compareNodes(ctx, client, expected, nodes)
		differs := len(unheard) > 0
		for _, f := range found {
			differs = differs || len(f.differences) > 0
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

// nodeFindings is what one node's maps hold and where they differ.
type nodeFindings struct {
	node        string
	services    int
	differences []service.Difference
}

func compareNodes(ctx context.Context, client kubernetes.Interface, expected *services.Snapshot, nodes []string) (found []nodeFindings, unheard []error) {
	unheard = askNodes(ctx, client, "skep/v1/dataplane", nodes, func(node string, document []byte) error {
		tables := traffic.Tables{Dump: &service.Dump{}}
		if err := json.Unmarshal(document, &tables); err != nil {
			return err
		}
		want, down := expected.Expect(node)
		found = append(found, nodeFindings{node, len(tables.Services), service.Compare(node, want, down, tables.Dump)})
		return nil
	})
	slices.SortFunc(found, func(a, b nodeFindings) int {
		if a.node < b.node {
			return -1
		}
		return 1
	})
	return found, unheard
}

func reportNodes(out io.Writer, found []nodeFindings, unheard []error) error {
	differences := 0
	for _, f := range found {
		if len(f.differences) == 0 {
			fmt.Fprintf(out, "%s: %d service ports, as the API says\n", f.node, f.services)
			continue
		}
		differences += len(f.differences)
		fmt.Fprintf(out, "%s: %d service ports, %d differences\n", f.node, f.services, len(f.differences))
		for _, d := range f.differences {
			fmt.Fprintf(out, "  %s\n", d)
		}
	}
	if differences > 0 {
		unheard = append(unheard, fmt.Errorf("the maps of nodes differ from the API in %d places", differences))
	}
	return errors.Join(unheard...)
}

// snapshot reads from the API what nodes translate.
func snapshot(ctx context.Context, client kubernetes.Interface) (*services.Snapshot, error) {
	s := &services.Snapshot{}
	svcs, err := client.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	s.Services = pointers(svcs.Items)
	endpoints, err := client.DiscoveryV1().EndpointSlices("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	s.Slices = pointers(endpoints.Items)
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	s.Nodes = pointers(nodes.Items)
	pods, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	s.Pods = slices.DeleteFunc(pointers(pods.Items), func(p *corev1.Pod) bool { return p.Spec.NodeName == "" })
	// The ranges that the cluster was started with, which nodes know too.
	configured, err := client.NetworkingV1().ServiceCIDRs().Get(ctx, "kubernetes", metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	for _, text := range configured.Spec.CIDRs {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			s.ServiceCIDRs = append(s.ServiceCIDRs, prefix)
		}
	}
	return s, nil
}

func pointers[T any](items []T) []*T {
	out := make([]*T, len(items))
	for i := range items {
		out[i] = &items[i]
	}
	return out
}
