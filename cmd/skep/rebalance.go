package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes"
	"k8s.io/kubectl/pkg/util/podutils"
	"k8s.io/kubectl/pkg/util/templates"
	"k8s.io/utils/ptr"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/controlplane/rebalance"
)

// maxShown is how many moves --dry-run plans: each is computed on 5,000 nodes in some milliseconds.
const maxShown = 100

func newRebalanceCommand(config genericclioptions.RESTClientGetter, streams genericiooptions.IOStreams) *cobra.Command {
	var all, dryRun bool
	var timeout time.Duration
	command := &cobra.Command{
		Use:   "rebalance",
		Short: "Move replicas to where new pods would go, one at a time",
		Long: templates.LongDesc(`
			Move replicas of ReplicationControllers, ReplicaSets and Deployments so that they
			are spread as their pods would be if they were placed now: after hosts were added,
			or a zone has returned. A pod moves only if its workload is spread better
			afterwards by zone and host, or by its own topology spread constraints, or if its
			node is used much more than the one where its replacement goes.

			One pod is evicted at a time, as far as disruption budgets allow and while all
			other replicas are ready; the next only when all are ready again. Pods of
			workloads with one replica, with an emptyDir on disk or with a hostPath stay.

			With the annotation skep.io/rebalance=true on a workload or a namespace the
			control plane does this by itself; "false" keeps a workload where it is.`),
		Example: templates.Examples(`
			# What would move, and why
			skep rebalance -A --dry-run

			skep rebalance -n shop`),
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			client, err := clientOf(config)
			if err != nil {
				return err
			}
			namespace, _, err := config.ToRawKubeConfigLoader().Namespace()
			if err != nil {
				return err
			}
			if all {
				namespace = metav1.NamespaceAll
			}
			r := &rebalancing{client: client, namespace: namespace}
			if dryRun {
				plan, err := r.plan(command.Context(), nil, maxShown)
				if err != nil {
					return err
				}
				return printPlan(streams.Out, plan)
			}
			return r.run(command.Context(), streams.Out, timeout)
		},
	}
	flags := command.Flags()
	flags.BoolVarP(&all, "all-namespaces", "A", false, "Workloads of all namespaces")
	flags.BoolVar(&dryRun, "dry-run", false, "Show the first 100 that would move and why, and move nothing")
	flags.DurationVar(&timeout, "timeout", 5*time.Minute, "How long a disruption budget may refuse an eviction, and a replacement may take to become ready")
	return command
}

// printPlan shows what would move, for people.
func printPlan(out io.Writer, plan skepv1.RebalancePlan) error {
	if len(plan.Moves) > 0 {
		table := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
		fmt.Fprintln(table, "WORKLOAD\tPOD\tFROM\tTO\tWHY")
		for _, m := range plan.Moves {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", m.Workload, m.Pod, m.From, m.To, m.Reason)
		}
		if err := table.Flush(); err != nil {
			return err
		}
	}
	printNotes(out, plan)
	if len(plan.Moves) == 0 {
		fmt.Fprintln(out, "Nothing would move.")
		return nil
	}
	if len(plan.Moves) == maxShown {
		fmt.Fprintf(out, "%d would move, and perhaps more after them.\n", len(plan.Moves))
		return nil
	}
	fmt.Fprintf(out, "%d would move.\n", len(plan.Moves))
	return nil
}

func printNotes(out io.Writer, plan skepv1.RebalancePlan) {
	for _, n := range slices.Concat(plan.Waiting, plan.Kept) {
		fmt.Fprintf(out, "%s stays as it is: %s\n", n.Workload, n.Reason)
	}
}

// rebalancing carries out what the API server plans, through the API.
type rebalancing struct {
	client    kubernetes.Interface
	namespace string
}

func (r *rebalancing) run(ctx context.Context, out io.Writer, timeout time.Duration) error {
	driver := &rebalance.Driver{Cluster: r, Timeout: timeout, Say: func(line string) { fmt.Fprintln(out, line) }}
	moved := 0
	for {
		more, err := driver.Step(ctx)
		if err != nil {
			return err
		}
		if !more {
			break
		}
		moved++
	}
	aside := driver.Aside()
	plan, err := r.Plan(ctx, slices.Sorted(maps.Keys(aside)))
	if err != nil {
		return err
	}
	printNotes(out, plan)
	if len(aside) > 0 {
		return fmt.Errorf("%d evicted; %d workloads were left alone before they were spread as they could be", moved, len(aside))
	}
	fmt.Fprintf(out, "%d moved; nothing else would be spread better.\n", moved)
	return nil
}

// Plan asks for the next move.
func (r *rebalancing) Plan(ctx context.Context, except []string) (skepv1.RebalancePlan, error) {
	return r.plan(ctx, except, 1)
}

// plan asks the API server.
func (r *rebalancing) plan(ctx context.Context, except []string, limit int) (plan skepv1.RebalancePlan, err error) {
	request := r.client.CoreV1().RESTClient().Get().AbsPath(skepv1.PathRebalance)
	for name, values := range (skepv1.RebalanceQuery{Namespace: r.namespace, Except: except, Limit: limit}).Values() {
		for _, value := range values {
			request = request.Param(name, value)
		}
	}
	data, err := request.DoRaw(ctx)
	if err != nil {
		return plan, err
	}
	if err := json.Unmarshal(data, &plan); err != nil {
		return plan, fmt.Errorf("unreadable answer of the API server: %w", err)
	}
	return plan, nil
}

// Evict uses the eviction API.
func (r *rebalancing) Evict(ctx context.Context, m skepv1.RebalanceMove) error {
	return r.client.PolicyV1().Evictions(m.Namespace).Evict(ctx, &policyv1.Eviction{
		ObjectMeta:    metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Pod},
		DeleteOptions: &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: ptr.To(types.UID(m.UID))}},
	})
}

// Replicas lists the pods of a move's controller.
func (r *rebalancing) Replicas(ctx context.Context, m skepv1.RebalanceMove) (of []rebalance.Replica, err error) {
	list, err := r.client.CoreV1().Pods(m.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for i := range list.Items {
		pod := &list.Items[i]
		ref := metav1.GetControllerOfNoCopy(pod)
		if ref == nil || string(ref.UID) != m.Owner || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		of = append(of, rebalance.Replica{UID: string(pod.UID), Node: pod.Spec.NodeName, Ready: podutils.IsPodReady(pod), Ending: pod.DeletionTimestamp != nil})
	}
	return of, nil
}
