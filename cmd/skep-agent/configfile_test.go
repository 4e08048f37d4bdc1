package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

const header = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"

// configured are the options that result from a file and flags.
func configured(t *testing.T, file string, args ...string) (*options, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubelet.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	command, o := &cobra.Command{}, &options{}
	o.hostFlags(command)
	o.clusterFlags(command)
	if err := command.ParseFlags(append([]string{"--server", "https://192.0.2.1:6443", "--node-name", "node1"}, args...)); err != nil {
		t.Fatal(err)
	}
	return o, applyConfigFile(path, command.Flags())
}

func TestConfigFile(t *testing.T) {
	o, err := configured(t, header+`
podPidsLimit: 100
kubeReserved: {cpu: 200m, memory: 1Gi}
systemReserved: {memory: 500Mi}
evictionHard: {memory.available: 300Mi, nodefs.available: 5%}
evictionSoft: {memory.available: 600Mi}
evictionSoftGracePeriod: {memory.available: 1m30s}
evictionMinimumReclaim: {memory.available: 100Mi}
evictionPressureTransitionPeriod: 30s
evictionMaxPodGracePeriod: 20
imageGCHighThresholdPercent: 90
imageGCLowThresholdPercent: 70
imageMinimumGCAge: 3m
imageMaximumGCAge: 24h
allowedUnsafeSysctls: [net.core.somaxconn, "kernel.msg*"]
clusterDNS: [10.98.0.10, "fd00:98::a"]
clusterDomain: example.internal
`, "--pod-max-pids", "200", "--image-gc-high-threshold", "95")
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := o.config()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Reserves.PodPids != 200 || cfg.Garbage.HighThreshold != 95 {
		t.Errorf("what flags say does not come first: %d, %d", cfg.Reserves.PodPids, cfg.Garbage.HighThreshold)
	}
	for what, is := range map[string]bool{
		"kubeReserved":   cfg.Reserves.Kube.Cpu().String() == "200m" && cfg.Reserves.Kube.Memory().String() == "1Gi",
		"systemReserved": cfg.Reserves.System.Memory().String() == "500Mi",
		"thresholds":     len(cfg.Reserves.Thresholds) == 4, // and the one of what pods have together
		"pressure":       cfg.Pressure.Transition == 30*time.Second && cfg.Pressure.MaxPodGrace == 20*time.Second,
		"garbage":        cfg.Garbage.LowThreshold == 70 && cfg.Garbage.MinimumAge == 3*time.Minute && cfg.Garbage.MaximumAge == 24*time.Hour,
		"sysctls":        strings.Join(cfg.AllowedUnsafeSysctls, ",") == "net.core.somaxconn,kernel.msg*",
		"dns":            len(cfg.ClusterDNS) == 2 && cfg.ClusterDNS[0].String() == "10.98.0.10" && cfg.ClusterDomain == "example.internal",
	} {
		if !is {
			t.Errorf("%s is not as the file says: %+v", what, cfg)
		}
	}
}

func TestConfigFilesThatCannotBe(t *testing.T) {
	for name, c := range map[string]struct {
		file string
		says []string
	}{
		"nothing":            {"", []string{`apiVersion "" and kind ""`, "want kubelet.config.k8s.io/v1beta1 and KubeletConfiguration"}},
		"another kind":       {"apiVersion: v1\nkind: Pod\n", []string{`kind "Pod"`}},
		"no YAML":            {"a: b: c", []string{"kubelet.yaml", "yaml"}},
		"unknown field":      {header + "podPidLimit: 1\n", []string{`unknown field "podPidLimit"`}},
		"field twice":        {header + "podPidsLimit: 1\npodPidsLimit: 2\n", []string{"podPidsLimit"}},
		"what kubelet alone": {header + "cgroupDriver: systemd\nmaxOpenFiles: 7\n", []string{"does not have cgroupDriver, maxOpenFiles: remove them", "podPidsLimit"}},
		"wrong type":         {header + "podPidsLimit: many\n", []string{"podPidsLimit"}},
	} {
		_, err := configured(t, c.file)
		for _, part := range c.says {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v, want %q in it", name, err, part)
			}
		}
	}
	o, err := configured(t, header+"evictionHard: {memory.available: lots}\n")
	if err == nil {
		_, err = o.config()
	}
	if err == nil || !strings.Contains(err.Error(), "eviction-hard") {
		t.Errorf("a threshold that cannot be read: %v", err)
	}
}

// Every flag that a field stands for is one.
func TestConfigFileFlagsAreThere(t *testing.T) {
	command, o := &cobra.Command{}, &options{}
	o.hostFlags(command)
	o.clusterFlags(command)
	for field, s := range settings {
		if command.Flags().Lookup(s.flag) == nil {
			t.Errorf("%s: there is no --%s", field, s.flag)
		}
	}
}
