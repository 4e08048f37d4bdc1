package main

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/skep-io/skep/cmd/skep/cluster"
)

// defaultKubeconfig points KUBECONFIG at the cluster on this machine if the user
// sets nothing else: the one named "default", or the only one. Without such a
// cluster, kubectl's own default holds.
func defaultKubeconfig(arguments []string) error {
	if os.Getenv("KUBECONFIG") != "" {
		return nil
	}
	for _, argument := range arguments {
		if argument == "--" {
			break
		}
		if argument == "--kubeconfig" || strings.HasPrefix(argument, "--kubeconfig=") {
			return nil
		}
	}
	dir, err := cluster.DefaultDir(cluster.DefaultName)
	if err != nil {
		return nil // no home: kubectl's own default says what is missing
	}
	path := filepath.Join(dir, "kubeconfig")
	if _, err := os.Stat(path); err == nil {
		return os.Setenv("KUBECONFIG", path)
	}
	found, err := filepath.Glob(filepath.Join(filepath.Dir(dir), "*", "kubeconfig"))
	if err != nil || len(found) != 1 {
		return err
	}
	return os.Setenv("KUBECONFIG", found[0])
}
