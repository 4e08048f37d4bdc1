package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/kubectl/pkg/util/templates"
	"sigs.k8s.io/yaml"

	"github.com/skep-io/skep/cmd/skep/rolling"
)

func newRollingUpdateCommand(config genericclioptions.RESTClientGetter, streams genericiooptions.IOStreams) *cobra.Command {
	update := rolling.Update{Out: streams.Out}
	var file string
	var rollback bool
	command := &cobra.Command{
		Use:   "rolling-update OLD NEW (--image=IMAGE | --filename=FILE | --rollback)",
		Short: "Replace a replication controller by another, a pod at a time",
		Long: templates.LongDesc(`
			Replace the pods of a replication controller by those of another: one is added
			and ready before one is removed, and a removed pod is signalled only when no
			node sends it new connections and no client is connected, or its time is over.
			The new controller is the old one with another image, or is read from a file.

			If it is interrupted, the same command goes on; --rollback goes back.`),
		Example: templates.Examples(`
			skep rolling-update web-v1 web-v2 --image=example.org/web:2
			skep rolling-update web-v1 web-v2 -f web-v2.yaml

			# Go back to web-v1
			skep rolling-update web-v1 web-v2 --rollback`),
		Args: cobra.ExactArgs(2),
		RunE: func(command *cobra.Command, args []string) (err error) {
			if update.Old, update.New = args[0], args[1]; update.Old == update.New {
				return errors.New("the new controller needs another name than the old one")
			}
			if update.Client, err = clientOf(config); err != nil {
				return err
			}
			if update.Namespace, _, err = config.ToRawKubeConfigLoader().Namespace(); err != nil {
				return err
			}
			if rollback {
				return update.Undo(command.Context())
			}
			if (update.Image == "") == (file == "") {
				return errors.New("give --image or --filename, or --rollback to go back")
			}
			if file != "" {
				if update.Spec, err = readController(file, update.New); err != nil {
					return err
				}
			}
			return update.Run(command.Context())
		},
	}
	flags := command.Flags()
	flags.StringVar(&update.Image, "image", "", "Image of the new controller's container")
	flags.StringVarP(&update.Container, "container", "c", "", "The container that gets the image, where there are several")
	flags.StringVarP(&file, "filename", "f", "", "File with the new replication controller")
	flags.BoolVar(&rollback, "rollback", false, "Go back to the old controller")
	flags.BoolVar(&update.KeepOld, "keep-old", false, "Keep the old controller, without pods")
	flags.DurationVar(&update.Timeout, "timeout", 5*time.Minute, "How long a pod may take to become ready, or to end")
	return command
}

// readController reads a file with one replication controller.
func readController(file, name string) (*corev1.ReplicationController, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	rc := &corev1.ReplicationController{}
	if err := yaml.UnmarshalStrict(data, rc); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if rc.Kind != "ReplicationController" || rc.APIVersion != "v1" {
		return nil, fmt.Errorf("%s holds a %s of %s, not a ReplicationController of v1", file, rc.Kind, rc.APIVersion)
	}
	if rc.Name != "" && rc.Name != name {
		return nil, fmt.Errorf("%s holds the replication controller %s, not %s", file, rc.Name, name)
	}
	return rc, nil
}
