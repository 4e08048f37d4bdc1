package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/skep-io/skep/cmd/skep/cluster"
	"github.com/skep-io/skep/cmd/skep/demo"
)

// newDemoCommand is for `make up`: it needs the images that `make build` makes.
func newDemoCommand(streams genericiooptions.IOStreams) *cobra.Command {
	var name, dir, image string
	command := &cobra.Command{
		Use: "demo", Hidden: true, Args: cobra.NoArgs,
		Short: "Show and measure on a running cluster what Skep does",
		RunE: func(command *cobra.Command, _ []string) error {
			var err error
			if dir == "" {
				if dir, err = cluster.DefaultDir(name); err != nil {
					return err
				}
			}
			if image == "" {
				folder, err := ownFolder()
				if err != nil {
					return err
				}
				image = filepath.Join(folder, "images", "echo.tar")
			}
			return demo.Run(command.Context(), demo.Options{Dir: dir, Image: image, Skep: calledAs(), Out: streams.Out})
		},
	}
	clusterFlags(command, &name, &dir)
	command.Flags().StringVar(&image, "image", "", "Archive of the echo image; images/echo.tar beside this program if empty")
	return command
}

// calledAs is what the user can type to run this program again from here.
func calledAs() string {
	self, err := os.Executable()
	if err != nil {
		return "skep"
	}
	if found, err := exec.LookPath("skep"); err == nil && found == self {
		return "skep"
	}
	if here, err := os.Getwd(); err == nil {
		if path, err := filepath.Rel(here, self); err == nil && !strings.HasPrefix(path, "..") {
			return path
		}
	}
	return self
}
