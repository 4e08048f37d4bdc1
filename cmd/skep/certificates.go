package main

import (
	"cmp"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/rest"
	"k8s.io/kubectl/pkg/util/templates"

	skepv1 "github.com/skep-io/skep/api/v1"
)

func newCertificatesCommand(config genericclioptions.RESTClientGetter, streams genericiooptions.IOStreams) *cobra.Command {
	var output string
	command := &cobra.Command{
		Use:   "certificates",
		Short: "Show which of the cluster's certificates end when",
		Long: templates.LongDesc(`
			Show the cluster's certificates: the authority, the API server's, the
			administrator's kubeconfig, cluster DNS' and each node's, with the time at which
			they are renewed and that at which they would end. skepd and the agents renew
			their own. The first row is the certificate of the kubeconfig in use, which
			nobody renews if it is a copy: copy a new one from skepd's data folder.`),
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if output != "" && output != "json" {
				return fmt.Errorf("--output=%q: want json", output)
			}
			client, err := clientOf(config)
			if err != nil {
				return err
			}
			data, err := client.CoreV1().RESTClient().Get().AbsPath(skepv1.PathCertificates).DoRaw(command.Context())
			if err != nil {
				return err
			}
			var list skepv1.CertificateList
			if err := json.Unmarshal(data, &list); err != nil {
				return fmt.Errorf("unreadable answer of the API server: %w", err)
			}
			restConfig, err := config.ToRESTConfig()
			if err != nil {
				return err
			}
			if own, ok := ownCertificate(restConfig, time.Now()); ok {
				list.Certificates = append([]skepv1.Certificate{own}, list.Certificates...)
			}
			if output == "json" {
				encoder := json.NewEncoder(streams.Out)
				encoder.SetIndent("", "    ")
				return encoder.Encode(list)
			}
			return printCertificates(streams.Out, list.Certificates, time.Now())
		},
	}
	command.Flags().StringVarP(&output, "output", "o", "", "Print as json")
	return command
}

// ownCertificate is the one of the kubeconfig in use.
func ownCertificate(config *rest.Config, now time.Time) (skepv1.Certificate, bool) {
	data := config.CertData
	if len(data) == 0 && config.CertFile != "" {
		data, _ = os.ReadFile(config.CertFile) // without it there is no row
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return skepv1.Certificate{}, false
	}
	own, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return skepv1.Certificate{}, false
	}
	state := "valid"
	if now.After(own.NotAfter) {
		state = "expired"
	}
	return skepv1.Certificate{
		Name: "kubeconfig in use", Subject: own.Subject.CommonName, Path: config.CertFile,
		NotBefore: &own.NotBefore, NotAfter: &own.NotAfter, State: state,
	}, true
}

func printCertificates(out io.Writer, certificates []skepv1.Certificate, now time.Time) error {
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "CERTIFICATE\tSUBJECT\tSTATE\tEXPIRES\tLEFT\tRENEWED FROM\tFILE")
	for _, c := range certificates {
		expires, left, renewed := "-", "-", "-"
		if c.NotAfter != nil {
			expires = c.NotAfter.UTC().Format(time.DateOnly)
			left = fmt.Sprintf("%dd", int(c.NotAfter.Sub(now)/(24*time.Hour)))
		}
		if c.Renewal != nil {
			renewed = c.Renewal.UTC().Format(time.DateOnly)
		}
		state := c.State
		if c.Message != "" {
			state += ": " + strings.ReplaceAll(c.Message, "\n", " ")
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", c.Name, cmp.Or(c.Subject, "-"), state, expires, left, renewed, cmp.Or(c.Path, "-"))
	}
	return table.Flush()
}
