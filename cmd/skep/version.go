package main

import (
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
	apiversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/yaml"
)

// versions has the field names of `kubectl version -o json`, so scripts read both.
type versions struct {
	ClientVersion apiversion.Info  `json:"clientVersion"`
	ServerVersion *apiversion.Info `json:"serverVersion,omitempty"`
}

func newVersionCommand(config genericclioptions.RESTClientGetter, streams genericiooptions.IOStreams) *cobra.Command {
	var clientOnly bool
	var output string
	command := &cobra.Command{
		Use:   "version",
		Short: "Print the versions of this program and of the cluster's API",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := versions{ClientVersion: apiversion.Info{
				GitVersion: version, GoVersion: runtime.Version(), Compiler: runtime.Compiler,
				Platform: runtime.GOOS + "/" + runtime.GOARCH,
			}}
			var unreachable error
			if !clientOnly {
				client, err := config.ToDiscoveryClient()
				if err == nil {
					v.ServerVersion, err = client.ServerVersion()
				}
				unreachable = err
			}
			switch output {
			case "":
				fmt.Fprintf(streams.Out, "Client: skep %s\n", version)
				if v.ServerVersion != nil {
					fmt.Fprintf(streams.Out, "Server: %s\n", v.ServerVersion.GitVersion)
				}
			case "json", "yaml":
				data, err := json.MarshalIndent(v, "", "  ")
				if err == nil && output == "yaml" {
					data, err = yaml.JSONToYAML(data)
				}
				if err != nil {
					return err
				}
				fmt.Fprintln(streams.Out, string(data))
			default:
				return fmt.Errorf("--output=%q: want json or yaml", output)
			}
			return unreachable
		},
	}
	command.Flags().BoolVar(&clientOnly, "client", false, "Print this program's version only, without asking the cluster")
	command.Flags().StringVarP(&output, "output", "o", "", "Print as json or yaml")
	return command
}
