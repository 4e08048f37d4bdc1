package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes"
	"k8s.io/kubectl/pkg/util/templates"

	"github.com/skep-io/skep/cmd/skep/cluster"
)

func newImageCommand(config genericclioptions.RESTClientGetter, streams genericiooptions.IOStreams) *cobra.Command {
	command := &cobra.Command{
		Use:   "image COMMAND",
		Short: "Load an image onto the nodes without a registry",
		Args:  cobra.NoArgs,
		RunE:  showHelp,
	}
	var nodes []string
	load := &cobra.Command{
		Use:   "load FILE [--node NODE]",
		Short: "Load an image from a tar file onto every node, or onto those named",
		Long: templates.LongDesc(`
			Load an image onto every node, or onto those named, through the API: a docker
			archive ('docker save') or an OCI layout, as a tar file.`),
		Example: templates.Examples(`
			skep image load bin/images/echo.tar
			docker save my/app:1 -o app.tar && skep image load app.tar --node node1`),
		Args: one("image archive"),
		RunE: func(command *cobra.Command, args []string) error {
			rest, err := config.ToRESTConfig()
			if err != nil {
				return err
			}
			rest.Timeout = 0 // an upload takes as long as it takes
			client, err := kubernetes.NewForConfig(rest)
			if err != nil {
				return err
			}
			return loadImage(command, client, streams, args[0], nodes)
		},
	}
	load.Flags().StringSliceVar(&nodes, "node", nil, "Load onto this node only; may be repeated")
	command.AddCommand(load)
	return command
}

func loadImage(command *cobra.Command, client kubernetes.Interface, streams genericiooptions.IOStreams, file string, nodes []string) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return fmt.Errorf("%s is a folder: want a tar file (tar -cf image.tar -C %s .)", file, file)
	}
	if len(nodes) == 0 {
		list, err := client.CoreV1().Nodes().List(command.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, node := range list.Items {
			nodes = append(nodes, node.Name)
		}
		if len(nodes) == 0 {
			return fmt.Errorf("the cluster has no nodes yet")
		}
	}
	begin := time.Now()
	var lines sync.Mutex
	open := func() (io.ReadCloser, error) { return os.Open(file) }
	return cluster.LoadImage(command.Context(), client, nodes, open, func(node string) {
		lines.Lock()
		defer lines.Unlock()
		fmt.Fprintf(streams.Out, "%s: loaded %s, %.1f MB in %.1f s\n", node, file, float64(info.Size())/1e6, time.Since(begin).Seconds())
	})
}
