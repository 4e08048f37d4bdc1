package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// What is built of Kubernetes' module, and of the test runner that its suite is written for.
const (
	suitePackage   = "k8s.io/kubernetes/test/e2e"
	agnhostPackage = "k8s.io/kubernetes/test/images/agnhost"
	kubectlPackage = "k8s.io/kubernetes/cmd/kubectl"
	ginkgoPackage  = "github.com/onsi/ginkgo/v2/ginkgo"
)

// suite is Kubernetes' suite as it was built.
type suite struct {
	dir     string // of everything below
	tests   string
	ginkgo  string
	kubectl string // by which tests run commands in pods
	agnhost string
	source  string // folder of agnhost's source, which has the certificate that tests expect
}

// build compiles with the go command's cache: minutes the first time, seconds afterwards.
func build(ctx context.Context, dir string, out io.Writer) (*suite, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	s := &suite{
		dir:   dir,
		tests: filepath.Join(dir, "e2e.test"), ginkgo: filepath.Join(dir, "ginkgo"),
		kubectl: filepath.Join(dir, "kubectl"), agnhost: filepath.Join(dir, "agnhost"),
	}
	version, err := goCommand(ctx, "list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes")
	if err != nil {
		return nil, err
	}
	for _, step := range []struct {
		file string
		args []string
	}{
		{s.ginkgo, []string{"build", ginkgoPackage}},
		{s.kubectl, []string{"build", "-ldflags", "-s -w -X k8s.io/component-base/version.gitVersion=" + version, kubectlPackage}},
		{s.agnhost, []string{"build", "-ldflags", "-s -w", agnhostPackage}},
		{s.tests, []string{"test", "-c", "-ldflags", "-s -w", suitePackage}},
	} {
		begin := time.Now()
		args := append(step.args[:len(step.args)-1:len(step.args)-1], "-o", step.file, step.args[len(step.args)-1])
		if _, err := goCommand(ctx, args...); err != nil {
			return nil, err
		}
		fmt.Fprintf(out, "conformance: built %s in %s\n", filepath.Base(step.file), time.Since(begin).Round(time.Second))
	}
	if s.source, err = goCommand(ctx, "list", "-f", "{{.Dir}}", agnhostPackage); err != nil {
		return nil, err
	}
	return s, nil
}

// goCommand runs the go command in this module, statically linking what it builds.
func goCommand(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
}
