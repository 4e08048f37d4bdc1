package main

import (
	"os"
	"regexp"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/plugin"
	"k8s.io/kubectl/pkg/util/templates"
)

// newRootCommand is kubectl's command tree under Skep's name, with Skep's own commands.
func newRootCommand(arguments []string) *cobra.Command {
	streams := genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}
	flags := genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag().WithDiscoveryBurst(300).WithDiscoveryQPS(50)
	root := cmd.NewKubectlCommand(cmd.KubectlOptions{
		PluginHandler: cmd.NewDefaultPluginHandler(plugin.ValidPluginFilenamePrefixes),
		Arguments:     arguments,
		ConfigFlags:   flags.WithWarningPrinter(streams),
		IOStreams:     streams,
	})
	rename(root)
	root.Use = "skep"
	root.Short = "skep runs containers on many Linux hosts"
	root.Long = templates.LongDesc(`
		skep runs containers on many Linux hosts.

		'skep up' starts a cluster on this machine; the other commands are kubectl's
		and work on any cluster that the kubeconfig names. Without --kubeconfig and
		KUBECONFIG that is the one 'skep up' has started.`)

	for _, old := range root.Commands() {
		if old.Name() == "version" {
			root.RemoveCommand(old)
		}
	}
	own := templates.CommandGroup{Message: "Clusters on this machine, and images:", Commands: []*cobra.Command{
		newUpCommand(streams), newDownCommand(streams), newNodeCommand(streams),
		newImageCommand(flags, streams), newVersionCommand(flags, streams), newCertificatesCommand(flags, streams),
		newEtcdCommand(flags, streams),
	}}
	kernel := templates.CommandGroup{Message: "What the nodes' kernels do:", Commands: []*cobra.Command{
		newServicesCommand(flags, streams), newDataplaneCommand(flags, streams),
	}}
	root.AddCommand(newTokenCommand(flags, streams), newServerCommand(flags, streams), newNetworkCommand(flags, streams), newRollingUpdateCommand(flags, streams), newRebalanceCommand(flags, streams))
	groups := append(templates.CommandGroups{own, kernel}, kubectlGroups(root)...)
	root.AddCommand(own.Commands...)
	root.AddCommand(kernel.Commands...)
	root.AddCommand(newDemoCommand(streams))
	templates.ActsAsRootCommand(root, []string{"options", "alpha"}, groups...)
	return root
}

// kubectlGroups arranges kubectl's commands for a newcomer: what one needs
// first comes first. Commands that are not named follow under "Other Commands".
func kubectlGroups(root *cobra.Command) []templates.CommandGroup {
	layout := []struct {
		message string
		names   []string
	}{
		{"Look at what runs:", []string{"get", "describe", "logs", "events", "top", "explain"}},
		{"Run and change things:", []string{"apply", "create", "run", "expose", "scale", "edit", "set", "patch", "replace", "label", "annotate", "delete", "rollout", "rolling-update", "autoscale"}},
		{"Debug:", []string{"exec", "attach", "port-forward", "cp", "debug", "proxy", "wait", "diff"}},
		{"Manage nodes, servers and access:", []string{"token", "server", "network", "cordon", "uncordon", "drain", "taint", "cluster-info", "auth", "certificate"}},
	}
	groups := make([]templates.CommandGroup, 0, len(layout))
	for _, part := range layout {
		group := templates.CommandGroup{Message: part.message}
		for _, name := range part.names {
			i := slices.IndexFunc(root.Commands(), func(c *cobra.Command) bool { return c.Name() == name })
			if i >= 0 {
				group.Commands = append(group.Commands, root.Commands()[i])
			}
		}
		groups = append(groups, group)
	}
	return groups
}

// programName finds kubectl as the name of the program, not as a part of a
// path, an annotation's domain or another word.
var programName = regexp.MustCompile(`(^|[^-./\w])kubectl(\.?$|\.\s|[^-./\w])`)

func asSkep(text string) string { return programName.ReplaceAllString(text, "${1}skep${2}") }

func rename(command *cobra.Command) {
	for _, text := range []*string{&command.Use, &command.Short, &command.Long, &command.Example, &command.Deprecated} {
		*text = asSkep(*text)
	}
	usage := func(flag *pflag.Flag) { flag.Usage = asSkep(flag.Usage) }
	command.LocalFlags().VisitAll(usage)
	command.PersistentFlags().VisitAll(usage)
	for _, child := range command.Commands() {
		rename(child)
	}
}
