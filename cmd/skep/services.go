package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes"
	"k8s.io/kubectl/pkg/util/templates"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/controlplane/servicespec"
)

// nodeAnswer bounds the wait for one node: one that hangs must not hide the others.
const nodeAnswer = 10 * time.Second

func newServicesCommand(config genericclioptions.RESTClientGetter, streams genericiooptions.IOStreams) *cobra.Command {
	var all, backends bool
	var output string
	command := &cobra.Command{
		Use:   "services [NAME]",
		Short: "Show what services carry, counted in the kernel of every node",
		Long: templates.LongDesc(`
			Show connections, failures, packets and bytes of services, counted in the
			kernel of every node since it began to serve them. Packets and bytes are those
			of pods that run on Skep's nodes; a pod behind several services counts all that
			it carries for each. ACTIVE is what is open now; ROUND TRIP is
			the mean of what TCP measures on open connections of sockets. What of a
			service does not work as it asks, for example as an address is another's, is
			said below the table; and how long it took, over all services, from the change
			of a pod's readiness until a node's maps had it (the network programming latency,
			which nodes' metrics have as a histogram).`),
		Example: templates.Examples(`
			skep services
			skep services web --backends
			skep services -A -o json`),
		Args: cobra.MaximumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			if output != "" && output != "json" {
				return fmt.Errorf("--output %q: want json, or nothing for a table", output)
			}
			client, err := clientOf(config)
			if err != nil {
				return err
			}
			namespace, _, err := config.ToRawKubeConfigLoader().Namespace()
			if err != nil {
				return err
			}
			wanted := func(name string) bool { return all || strings.HasPrefix(name, namespace+"/") }
			if len(args) == 1 {
				within, byNamespace := wanted, namespace+"/"+args[0]
				wanted = func(name string) bool {
					service, _, _ := strings.Cut(name, ":")
					return within(name) && (service == byNamespace || all && strings.HasSuffix(service, "/"+args[0]))
				}
			}
			scope := namespace
			if all {
				scope = metav1.NamespaceAll
			}
			problems, err := readProblems(command.Context(), client, scope, wanted)
			if err != nil {
				return err
			}
			total, took, unserved, unheard := readServices(command.Context(), client, wanted)
			if len(total)+len(problems) == 0 && len(unheard) == 0 && len(args) == 1 {
				return fmt.Errorf("no service %s with a cluster address in namespace %s (-A looks in all)", args[0], namespace)
			}
			if err := printServices(streams.Out, total, problems, backends, output); err != nil {
				return err
			}
			if output == "" {
				fmt.Fprint(streams.Out, took.String())
			}
			for _, u := range unserved {
				fmt.Fprintln(streams.ErrOut, "Warning: "+u)
			}
			return errors.Join(unheard...)
		},
	}
	command.Flags().BoolVarP(&all, "all-namespaces", "A", false, "Services of all namespaces")
	command.Flags().BoolVar(&backends, "backends", false, "A row for each backend too")
	command.Flags().StringVarP(&output, "output", "o", "", "json, or nothing for a table")
	return command
}

func clientOf(config genericclioptions.RESTClientGetter) (kubernetes.Interface, error) {
	rest, err := config.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(rest)
}

// askNodes asks every node for one of its agent's documents, all at once. It
// calls answered for one node at a time, and returns the errors of the others.
func askNodes(ctx context.Context, client kubernetes.Interface, path string, only []string, answered func(node string, document []byte) error) []error {
	nodes := only
	for _, node := range only { // a proxy's error for a missing node does not say that it is missing
		if _, err := client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{}); err != nil {
			return []error{err}
		}
	}
	if len(nodes) == 0 {
		list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return []error{err}
		}
		for _, n := range list.Items {
			nodes = append(nodes, n.Name)
		}
	}
	var mu sync.Mutex
	var failed []error
	var asked sync.WaitGroup
	for _, node := range nodes {
		asked.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, nodeAnswer)
			defer cancel()
			document, err := client.CoreV1().RESTClient().Get().
				AbsPath("/api/v1/nodes", node, "proxy", path).DoRaw(ctx)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				err = answered(node, document)
			}
			if err != nil {
				failed = append(failed, fmt.Errorf("node %s does not answer: %w", node, err))
			}
		})
	}
	asked.Wait()
	slices.SortFunc(failed, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	return failed
}

// serviceKey is one port of a service in one family.
type serviceKey struct {
	name, protocol string
	ip6            bool
}

// readServices adds up what all nodes count, and says where clients outside are not served.
func readServices(ctx context.Context, client kubernetes.Interface, wanted func(string) bool) (list []skepv1.Service, took programming, unserved []string, failed []error) {
	total := map[serviceKey]*skepv1.Service{}
	took = programming{}
	failed = askNodes(ctx, client, skepv1.PathServices, nil, func(node string, document []byte) error {
		var report skepv1.Report
		if err := json.Unmarshal(document, &report); err != nil {
			return err
		}
		for _, u := range report.Uplinks {
			if u.Problem != "" {
				unserved = append(unserved, fmt.Sprintf("node %s does not serve clients outside at its uplink %s: %s", node, u.Name, u.Problem))
			}
		}
		took.add(report.Programming)
		for i := range report.Services {
			if s := &report.Services[i]; wanted(s.Name) && len(s.Frontends) > 0 {
				addService(total, s)
			}
		}
		return nil
	})
	slices.Sort(unserved)
	list = make([]skepv1.Service, 0, len(total))
	for _, s := range total {
		slices.SortFunc(s.Backends, func(a, b skepv1.Backend) int { return a.Address.Compare(b.Address) })
		list = append(list, *s)
	}
	slices.SortFunc(list, func(a, b skepv1.Service) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Frontends[0].Protocol, b.Frontends[0].Protocol),
			a.Frontends[0].Address.Compare(b.Frontends[0].Address))
	})
	return list, took, unserved, failed
}

func addService(total map[serviceKey]*skepv1.Service, s *skepv1.Service) {
	f := s.Frontends[0]
	key := serviceKey{s.Name, f.Protocol, f.Address.Addr().Is6()}
	sum := total[key]
	if sum == nil {
		first := *s
		first.Backends = nil
		first.Connections, first.Failures, first.Refused = 0, 0, 0
		total[key], sum = &first, &first
	}
	sum.Connections += s.Connections
	sum.Failures += s.Failures
	sum.Refused += s.Refused
	for _, b := range s.Backends {
		at := slices.IndexFunc(sum.Backends, func(have skepv1.Backend) bool { return have.Address == b.Address })
		if at < 0 {
			sum.Backends = append(sum.Backends, b)
			continue
		}
		have := &sum.Backends[at]
		have.Connections += b.Connections
		have.Failures += b.Failures
		have.Active += b.Active
		addRoundTrip(have, &b)
		if b.Local { // only its own node counts them, and has its state first
			have.State = b.State
			have.ToPackets, have.ToBytes, have.FromPackets, have.FromBytes = b.ToPackets, b.ToBytes, b.FromPackets, b.FromBytes
		}
	}
}

// problem is a part of a service that the API reports as not working.
type problem struct {
	Service string `json:"service"` // namespace/name
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// readProblems reads the conditions of services that Skep's loops write.
func readProblems(ctx context.Context, client kubernetes.Interface, namespace string, wanted func(string) bool) ([]problem, error) {
	list, err := client.CoreV1().Services(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	problems := []problem{}
	for i := range list.Items {
		s := &list.Items[i]
		name := s.Namespace + "/" + s.Name
		for _, c := range s.Status.Conditions {
			if wanted(name) && slices.Contains([]string{servicespec.AddressConflict, servicespec.EndpointsIgnored, servicespec.LoadBalancerAddress}, c.Type) {
				problems = append(problems, problem{name, c.Reason, c.Message})
			}
		}
	}
	return problems, nil
}

// addRoundTrip averages the means of two nodes, weighted by their connections.
func addRoundTrip(sum, b *skepv1.Backend) {
	timed := sum.Timed + b.Timed
	if timed == 0 {
		return
	}
	sum.RoundTrip = (sum.RoundTrip*time.Duration(sum.Timed) + b.RoundTrip*time.Duration(b.Timed)) / time.Duration(timed)
	sum.Timed = timed
}

func printServices(out io.Writer, list []skepv1.Service, problems []problem, backends bool, output string) error {
	if output == "json" {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(struct {
			Services []skepv1.Service `json:"services"`
			Problems []problem        `json:"problems"`
		}{list, problems})
	}
	if len(list) == 0 {
		if _, err := fmt.Fprintln(out, "No services with a cluster address found."); err != nil {
			return err
		}
	} else if err := printTable(out, list, backends); err != nil {
		return err
	}
	for _, p := range problems {
		if _, err := fmt.Fprintf(out, "\n%s: %s: %s\n", p.Service, p.Reason, p.Message); err != nil {
			return err
		}
	}
	return nil
}

func printTable(out io.Writer, list []skepv1.Service, backends bool) error {
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "SERVICE\tADDRESS\tBACKENDS\tCONNECTIONS\tFAILURES\tACTIVE\tROUND TRIP\tPACKETS TO/FROM\tBYTES TO/FROM")
	for i := range list {
		printService(table, &list[i], backends)
	}
	return table.Flush()
}

func printService(table io.Writer, s *skepv1.Service, backends bool) {
	var sum skepv1.Backend
	ready := 0
	for _, b := range s.Backends {
		if b.State == "active" || b.State == "local" {
			ready++
		}
		sum.Active += b.Active
		addRoundTrip(&sum, &b)
		sum.ToPackets, sum.ToBytes = sum.ToPackets+b.ToPackets, sum.ToBytes+b.ToBytes
		sum.FromPackets, sum.FromBytes = sum.FromPackets+b.FromPackets, sum.FromBytes+b.FromBytes
	}
	fmt.Fprintf(table, "%s\t%s/%s\t%d\t%d\t%d\t%d\t%s\t%s\t%s\n", s.Name, shown(s), s.Frontends[0].Protocol, ready,
		s.Connections, s.Failures, sum.Active, roundTrip(&sum), pair(sum.ToPackets, sum.FromPackets, count), pair(sum.ToBytes, sum.FromBytes, size))
	if !backends {
		return
	}
	for _, b := range s.Backends {
		fmt.Fprintf(table, "  %s\t%s\t%s\t%d\t%d\t%d\t%s\t%s\t%s\n", b.Address, b.Node, b.State, b.Connections,
			b.Failures, b.Active, roundTrip(&b), pair(b.ToPackets, b.FromPackets, count), pair(b.ToBytes, b.FromBytes, size))
	}
}

// shown is the service's address for users.
func shown(s *skepv1.Service) netip.AddrPort {
	for _, f := range s.Frontends {
		if f.Primary {
			return f.Address
		}
	}
	return s.Frontends[0].Address
}

func roundTrip(b *skepv1.Backend) string {
	if b.Timed == 0 {
		return "-"
	}
	return b.RoundTrip.Round(10 * time.Microsecond).String()
}

func pair(to, from uint64, text func(uint64) string) string { return text(to) + "/" + text(from) }

func count(n uint64) string { return fmt.Sprint(n) }

// size in powers of 1,024, three digits.
func size(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprint(n)
	}
	value, unit := float64(n)/1024, 0
	for value >= 1000 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	return fmt.Sprintf("%.3g%ci", value, units[unit])
}
