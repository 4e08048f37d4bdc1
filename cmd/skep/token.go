package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/kubectl/pkg/util/templates"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/controlplane/jointoken"
)

// tokenCommand makes and shows the tokens by which hosts join, with kubeadm's subcommands and flags.
type tokenCommand struct {
	flags   *genericclioptions.ConfigFlags
	streams genericiooptions.IOStreams
}

func newTokenCommand(flags *genericclioptions.ConfigFlags, streams genericiooptions.IOStreams) *cobra.Command {
	t := &tokenCommand{flags: flags, streams: streams}
	command := &cobra.Command{
		Use:   "token COMMAND",
		Short: "Manage the tokens by which hosts join the cluster",
		Long: templates.LongDesc(`
			Make, list and delete the tokens by which hosts join the cluster as nodes.

			A token lets any host that has it join under a new name until it expires; one
			for a server lets one host become a server. It is a Secret of type bootstrap.kubernetes.io/token in kube-system.`),
		Args: cobra.NoArgs,
		RunE: showHelp,
	}
	command.AddCommand(t.create(), t.list(), t.delete())
	return command
}

func (t *tokenCommand) connect() (kubernetes.Interface, *rest.Config, error) {
	config, err := t.flags.ToRESTConfig()
	if err != nil {
		return nil, nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	return client, config, err
}

func (t *tokenCommand) create() *cobra.Command {
	var ttl time.Duration
	var description, node string
	var join, server bool
	command := &cobra.Command{
		Use:   "create",
		Short: "Make a token and print it",
		Example: templates.Examples(`
			# A token for a day, and the command that joins a host with it
			skep token create --print-join-command

			# Let the host that was set up anew take the place of node3
			skep token create --node node3 --ttl 1h

			# Let one more host become a server, within the hour
			skep token create --server --print-join-command`),
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if ttl < 0 {
				return fmt.Errorf("--ttl %s: give how long the token counts, or 0 for one that never expires", ttl)
			}
			if problems := validation.IsDNS1123Subdomain(node); node != "" && len(problems) > 0 {
				return fmt.Errorf("--node %q: %s", node, problems[0])
			}
			token := jointoken.Token{Description: description, Node: node, Authentication: !server, Server: server}
			if server {
				if node != "" {
					return errors.New("--server and --node: a token is for a server or for a node")
				}
				if !command.Flags().Changed("ttl") {
					ttl = jointoken.ServerTTL
				}
				if ttl <= 0 || ttl > jointoken.MaxServerTTL {
					return fmt.Errorf("--ttl %s: a token for a server, which is worth the whole cluster, expires after %s at the latest", ttl, jointoken.MaxServerTTL)
				}
			}
			client, config, err := t.connect()
			if err != nil {
				return err
			}
			text, err := makeToken(command.Context(), client, config, ttl, token)
			if err != nil {
				return err
			}
			if join && server {
				fmt.Fprintf(t.streams.Out, "skepd --join %s --token %s\n", strings.TrimSuffix(config.Host, "/"), text)
				return nil
			}
			if !join {
				fmt.Fprintln(t.streams.Out, text)
				return nil
			}
			fmt.Fprintf(t.streams.Out, "skep-agent --server %s --token %s", strings.TrimSuffix(config.Host, "/"), text)
			if node != "" {
				fmt.Fprintf(t.streams.Out, " --node-name %s", node)
			}
			fmt.Fprintln(t.streams.Out)
			return nil
		},
	}
	flags := command.Flags()
	flags.DurationVar(&ttl, "ttl", jointoken.DefaultTTL, "How long the token counts, as 1s, 2m or 3h; 0: it never expires. With --server at most 24h, and 1h if not given")
	flags.BoolVar(&server, "server", false, "The token lets one host become a further server (skepd --join), and no host a node. Whoever has it gets the keys of the cluster")
	flags.StringVar(&description, "description", "", "What the token is for")
	flags.StringVar(&node, "node", "", "The only node that may join with the token; it may take the place of a node of that name that exists")
	flags.BoolVar(&join, "print-join-command", false, "Print the command that joins a host with the token")
	return command
}

// makeToken stores a token that names the authority by which the client itself verifies the API server.
func makeToken(ctx context.Context, client kubernetes.Interface, config *rest.Config, ttl time.Duration, token jointoken.Token) (jointoken.Text, error) {
	ca, err := clusterCA(ctx, client, config)
	if err != nil {
		return jointoken.Text{}, err
	}
	text, err := jointoken.New(ca)
	if err != nil {
		return text, err
	}
	token.ID, token.Secret = text.ID, text.Secret
	if ttl > 0 {
		token.Expires = time.Now().Add(ttl)
	}
	_, err = client.CoreV1().Secrets(metav1.NamespaceSystem).Create(ctx, token.Object(), metav1.CreateOptions{})
	return text, err
}

// clusterCA is the authority's certificate as the kubeconfig has it, or as the API server gives it over the verified connection.
func clusterCA(ctx context.Context, client kubernetes.Interface, config *rest.Config) ([]byte, error) {
	if config.Insecure {
		return nil, errors.New("a join token has the hash of the authority by which hosts know the API server: it cannot be made over a connection that is not verified")
	}
	return client.Discovery().RESTClient().Get().AbsPath(skepv1.PathCA).DoRaw(ctx)
}

func (t *tokenCommand) list() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the tokens", Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			client, config, err := t.connect()
			if err != nil {
				return err
			}
			ca, err := clusterCA(command.Context(), client, config)
			if err != nil {
				return err
			}
			secrets, err := client.CoreV1().Secrets(metav1.NamespaceSystem).List(command.Context(), metav1.ListOptions{
				FieldSelector: fields.OneTermEqualSelector("type", string(corev1.SecretTypeBootstrapToken)).String(),
			})
			if err != nil {
				return err
			}
			hash, err := jointoken.Hash(ca)
			if err != nil {
				return err
			}
			return printTokens(t.streams.Out, secrets.Items, hash, time.Now())
		},
	}
}

// printTokens has kubeadm's columns, and one for the node.
func printTokens(out io.Writer, secrets []corev1.Secret, hash string, now time.Time) error {
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "TOKEN\tTTL\tEXPIRES\tUSAGES\tDESCRIPTION\tEXTRA GROUPS\tNODE")
	slices.SortFunc(secrets, func(a, b corev1.Secret) int { return strings.Compare(a.Name, b.Name) })
	or := func(text, otherwise string) string {
		if text == "" {
			return otherwise
		}
		return text
	}
	for i := range secrets {
		token, err := jointoken.Of(&secrets[i])
		if err != nil {
			fmt.Fprintf(table, "%s\t<invalid>\t<invalid>\t<none>\t%v\t<none>\t<none>\n", secrets[i].Name, err)
			continue
		}
		ttl, expires, usages := "<forever>", "<never>", ""
		if !token.Expires.IsZero() {
			ttl, expires = "<invalid>", token.Expires.Format(time.RFC3339)
			if !token.Expired(now) {
				ttl = duration.ShortHumanDuration(token.Expires.Sub(now))
			}
		}
		if token.Authentication {
			usages = "authentication"
		}
		node := or(token.Node, "<any new one>")
		if token.Server {
			usages, node = "server", "<none>"
		}
		text := jointoken.Text{CAHash: hash, ID: token.ID, Secret: token.Secret}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", text, ttl, expires, or(usages, "<none>"), or(token.Description, "<none>"), or(token.ExtraGroups, "<none>"), node)
	}
	return table.Flush()
}

func (t *tokenCommand) delete() *cobra.Command {
	return &cobra.Command{
		Use: "delete TOKEN...", Short: "Delete tokens, named whole or by their ID", Args: cobra.MinimumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			client, _, err := t.connect()
			if err != nil {
				return err
			}
			var failed []error
			for _, arg := range args {
				id := tokenID(arg)
				err := client.CoreV1().Secrets(metav1.NamespaceSystem).Delete(command.Context(), jointoken.SecretPrefix+id, metav1.DeleteOptions{})
				if apierrors.IsNotFound(err) {
					err = fmt.Errorf("there is no token %q", id)
				}
				if err != nil {
					failed = append(failed, err)
					continue
				}
				fmt.Fprintf(t.streams.Out, "bootstrap token %q deleted\n", id)
			}
			return errors.Join(failed...)
		},
	}
}

// tokenID finds the ID in a token, in kubeadm's ID.SECRET, or returns it as it is.
func tokenID(text string) string {
	if token, err := jointoken.Parse(text); err == nil {
		return token.ID
	}
	id, _, _ := strings.Cut(strings.TrimSpace(text), ".")
	return strings.TrimPrefix(id, jointoken.SecretPrefix)
}
