package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/rest"
	"k8s.io/kubectl/pkg/util/templates"

	skepv1 "github.com/skep-io/skep/api/v1"
)

func newEtcdCommand(config genericclioptions.RESTClientGetter, streams genericiooptions.IOStreams) *cobra.Command {
	client := func() (rest.Interface, error) {
		set, err := clientOf(config)
		if err != nil {
			return nil, err
		}
		return set.CoreV1().RESTClient(), nil
	}
	command := &cobra.Command{
		Use:   "etcd COMMAND",
		Short: "Back up the cluster's etcd, and look at its size",
		Long: templates.LongDesc(`
			Take a snapshot of what the cluster knows, through the API server and as its
			administrator, see how large etcd's database is, or make it smaller.`),
		Example: templates.Examples(`
			# Make a backup
			skep etcd snapshot backup.db

			# Restore it, on skepd's host, with skepd stopped and /var/lib/skepd/etcd moved away
			skepd restore backup.db --data-dir /var/lib/skepd`),
		Args: cobra.NoArgs,
		RunE: showHelp,
	}
	command.AddCommand(
		&cobra.Command{
			Use: "snapshot FILE", Short: "Write all that etcd holds to a file", Args: one("file"),
			RunE: func(command *cobra.Command, args []string) error {
				c, err := client()
				if err != nil {
					return err
				}
				size, err := takeSnapshot(command.Context(), c, args[0])
				if err != nil {
					return err
				}
				fmt.Fprintf(streams.Out, "%s: %d bytes\n", args[0], size)
				return nil
			},
		},
		&cobra.Command{
			Use: "status", Short: "Show each member, its size and its quota", Args: cobra.NoArgs,
			RunE: func(command *cobra.Command, _ []string) error {
				c, err := client()
				if err != nil {
					return err
				}
				data, err := c.Get().AbsPath(skepv1.PathEtcd + "status").DoRaw(command.Context())
				if err != nil {
					return err
				}
				return printEtcd(streams.Out, data)
			},
		},
		&cobra.Command{
			Use: "defragment", Short: "Drop old revisions and have each member rewrite its file, one at a time", Args: cobra.NoArgs,
			RunE: func(command *cobra.Command, _ []string) error {
				c, err := client()
				if err != nil {
					return err
				}
				data, err := c.Post().AbsPath(skepv1.PathEtcd + "defragment").DoRaw(command.Context())
				if err != nil {
					return err
				}
				return printEtcd(streams.Out, data)
			},
		},
		&cobra.Command{
			Use: "restore FILE", Short: "Say how to restore a snapshot", Args: one("file"),
			RunE: func(_ *cobra.Command, args []string) error {
				return fmt.Errorf("a restore is done on skepd's host, since the API server needs the etcd that is restored: stop skepd, move the folder etcd out of its data directory, and run `skepd restore %s`", args[0])
			},
		},
	)
	return command
}

// takeSnapshot writes a snapshot beside the file, and renames it once its sum is right and it is on the disk.
func takeSnapshot(ctx context.Context, c rest.Interface, path string) (int64, error) {
	stream, err := c.Get().AbsPath(skepv1.PathEtcd + "snapshot").Stream(ctx)
	if err != nil {
		return 0, err
	}
	defer stream.Close()
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return 0, err
	}
	defer os.Remove(file.Name())
	sum := &trailingSum{hash: sha256.New()}
	size, err := io.Copy(io.MultiWriter(file, sum), stream)
	if err == nil && !sum.right() {
		err = errors.New("the snapshot is not whole: its sum is wrong; take it again")
	}
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return 0, err
	}
	return size, os.Rename(file.Name(), path)
}

// trailingSum checks a stream that ends with the SHA-256 sum of what is before.
type trailingSum struct {
	hash hash.Hash
	last []byte
}

func (s *trailingSum) Write(p []byte) (int, error) {
	s.last = append(s.last, p...)
	if n := len(s.last) - sha256.Size; n > 0 {
		s.hash.Write(s.last[:n])
		s.last = append([]byte(nil), s.last[n:]...)
	}
	return len(p), nil
}

func (s *trailingSum) right() bool {
	return len(s.last) == sha256.Size && string(s.hash.Sum(nil)) == string(s.last)
}

func printEtcd(out io.Writer, data []byte) error {
	var report skepv1.EtcdReport
	if err := json.Unmarshal(data, &report); err != nil {
		return fmt.Errorf("unreadable answer of the API server: %w", err)
	}
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "MEMBER\tVERSION\tLEADER\tSIZE\tIN USE\tQUOTA\tREVISION\tERRORS")
	for _, m := range report.Members {
		quota, problems := "-", "-"
		if m.Quota > 0 {
			quota = mebibytes(m.Quota)
		}
		if len(m.Errors) > 0 {
			problems = strings.Join(m.Errors, "; ")
		}
		fmt.Fprintf(table, "%s\t%s\t%t\t%s\t%s\t%s\t%d\t%s\n", m.Member, m.Version, m.Leader, mebibytes(m.Bytes), mebibytes(m.InUse), quota, m.Revision, problems)
	}
	return table.Flush()
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
