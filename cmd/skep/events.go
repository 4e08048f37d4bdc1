package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes"
	"k8s.io/kubectl/pkg/util/templates"

	skepv1 "github.com/skep-io/skep/api/v1"
)

func newEventsCommand(config genericclioptions.RESTClientGetter, streams genericiooptions.IOStreams) *cobra.Command {
	var follow bool
	command := &cobra.Command{
		Use:   "events [NODE...]",
		Short: "Print which connections through services failed lately: whose, when and why",
		Long: templates.LongDesc(`
			Print a line for each connection to a service that failed: it found no
			backend, its client was refused, or its backend refused or did not answer. Nodes
			remember the last 512, and report no more than about eight a second of one service;
			how many there were in all is counted (skep services).`),
		Example: templates.Examples(`
			skep dataplane events
			skep dataplane events node1 --follow`),
		RunE: func(command *cobra.Command, nodes []string) error {
			client, err := clientOf(config)
			if err != nil {
				return err
			}
			if follow {
				return followEvents(command.Context(), client, nodes, streams.Out)
			}
			return listEvents(command.Context(), client, nodes, streams.Out)
		},
	}
	command.Flags().BoolVarP(&follow, "follow", "f", false, "Go on with new ones")
	return command
}

// nodeEvent is an event and the node that it comes from.
type nodeEvent struct {
	node string
	skepv1.Event
}

func (e nodeEvent) print(out io.Writer) error {
	_, err := fmt.Fprintf(out, "%s  %s  %s\n", e.Time.Local().Format(time.StampMilli), e.node, e.Message)
	return err
}

// listEvents prints the events that nodes keep, in the order of time.
func listEvents(ctx context.Context, client kubernetes.Interface, nodes []string, out io.Writer) error {
	var all []nodeEvent
	unheard := askNodes(ctx, client, skepv1.PathEvents, nodes, func(node string, document []byte) error {
		return eachEvent(bytes.NewReader(document), func(e skepv1.Event) error {
			all = append(all, nodeEvent{node, e})
			return nil
		})
	})
	slices.SortStableFunc(all, func(a, b nodeEvent) int { return a.Time.Compare(b.Time) })
	for _, e := range all {
		if err := e.print(out); err != nil {
			return err
		}
	}
	return errors.Join(unheard...)
}

// eachEvent reads one event from each line of JSON.
func eachEvent(document io.Reader, each func(skepv1.Event) error) error {
	lines := bufio.NewScanner(document)
	for lines.Scan() {
		var e skepv1.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return err
		}
		if err := each(e); err != nil {
			return err
		}
	}
	return lines.Err()
}

// followEvents prints events as nodes report them, until ctx ends or no node reports any more.
func followEvents(ctx context.Context, client kubernetes.Interface, nodes []string, out io.Writer) error {
	if len(nodes) == 0 {
		list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, n := range list.Items {
			nodes = append(nodes, n.Name)
		}
	}
	var mu sync.Mutex
	var failed []error
	var followers sync.WaitGroup
	for _, node := range nodes {
		followers.Go(func() {
			err := followNode(ctx, client, node, func(e skepv1.Event) error {
				mu.Lock()
				defer mu.Unlock()
				return nodeEvent{node, e}.print(out)
			})
			if err != nil && ctx.Err() == nil {
				mu.Lock()
				defer mu.Unlock()
				failed = append(failed, fmt.Errorf("node %s does not answer: %w", node, err))
			}
		})
	}
	followers.Wait()
	return errors.Join(failed...)
}

func followNode(ctx context.Context, client kubernetes.Interface, node string, each func(skepv1.Event) error) error {
	stream, err := client.CoreV1().RESTClient().Get().
		AbsPath("/api/v1/nodes", node, "proxy", skepv1.PathEvents).Param("follow", "true").Stream(ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	return eachEvent(stream, each)
}
