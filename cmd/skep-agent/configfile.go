package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"sigs.k8s.io/yaml"
)

// settings are the fields of KubeletConfiguration that the agent supports, by name: the corresponding flag, and the value in the
// flag's form.
var settings = map[string]struct {
	flag string
	text func(*kubeletconfig.KubeletConfiguration) string
}{
	"podPidsLimit":   {"pod-max-pids", func(c *kubeletconfig.KubeletConfiguration) string { return fmt.Sprint(*c.PodPidsLimit) }},
	"kubeReserved":   {"kube-reserved", func(c *kubeletconfig.KubeletConfiguration) string { return pairs(c.KubeReserved, "=") }},
	"systemReserved": {"system-reserved", func(c *kubeletconfig.KubeletConfiguration) string { return pairs(c.SystemReserved, "=") }},
	"evictionHard":   {"eviction-hard", func(c *kubeletconfig.KubeletConfiguration) string { return pairs(c.EvictionHard, "<") }},
	"evictionSoft":   {"eviction-soft", func(c *kubeletconfig.KubeletConfiguration) string { return pairs(c.EvictionSoft, "<") }},
	"evictionSoftGracePeriod": {"eviction-soft-grace-period", func(c *kubeletconfig.KubeletConfiguration) string {
		return pairs(c.EvictionSoftGracePeriod, "=")
	}},
	"evictionMinimumReclaim": {"eviction-minimum-reclaim", func(c *kubeletconfig.KubeletConfiguration) string {
		return pairs(c.EvictionMinimumReclaim, "=")
	}},
	"evictionPressureTransitionPeriod": {"eviction-pressure-transition-period", func(c *kubeletconfig.KubeletConfiguration) string {
		return c.EvictionPressureTransitionPeriod.Duration.String()
	}},
	"evictionMaxPodGracePeriod": {"eviction-max-pod-grace-period", func(c *kubeletconfig.KubeletConfiguration) string {
		return fmt.Sprint(c.EvictionMaxPodGracePeriod)
	}},
	"imageGCHighThresholdPercent": {"image-gc-high-threshold", func(c *kubeletconfig.KubeletConfiguration) string {
		return fmt.Sprint(*c.ImageGCHighThresholdPercent)
	}},
	"imageGCLowThresholdPercent": {"image-gc-low-threshold", func(c *kubeletconfig.KubeletConfiguration) string {
		return fmt.Sprint(*c.ImageGCLowThresholdPercent)
	}},
	"imageMinimumGCAge":    {"minimum-image-ttl-duration", func(c *kubeletconfig.KubeletConfiguration) string { return c.ImageMinimumGCAge.Duration.String() }},
	"imageMaximumGCAge":    {"image-maximum-gc-age", func(c *kubeletconfig.KubeletConfiguration) string { return c.ImageMaximumGCAge.Duration.String() }},
	"allowedUnsafeSysctls": {"allowed-unsafe-sysctls", func(c *kubeletconfig.KubeletConfiguration) string { return strings.Join(c.AllowedUnsafeSysctls, ",") }},
	"clusterDNS":           {"cluster-dns", func(c *kubeletconfig.KubeletConfiguration) string { return strings.Join(c.ClusterDNS, ",") }},
	"clusterDomain":        {"cluster-domain", func(c *kubeletconfig.KubeletConfiguration) string { return c.ClusterDomain }},
}

func pairs(m map[string]string, between string) string {
	var list []string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		list = append(list, key+between+m[key])
	}
	return strings.Join(list, ",")
}

// applyConfigFile sets the flags by a KubeletConfiguration in a file, except those that were given, which take precedence as with
// kubelet. A field that the agent does not support is an error: it would be ignored.
func applyConfigFile(path string, flags *pflag.FlagSet) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	var c kubeletconfig.KubeletConfiguration
	if err := yaml.UnmarshalStrict(data, &c); err != nil {
		return fmt.Errorf("--config %s: %w", path, err)
	}
	if want := kubeletconfig.SchemeGroupVersion.String(); c.APIVersion != want || c.Kind != "KubeletConfiguration" {
		return fmt.Errorf("--config %s: apiVersion %q and kind %q: want %s and KubeletConfiguration", path, c.APIVersion, c.Kind, want)
	}
	var fields map[string]any
	if err := yaml.Unmarshal(data, &fields); err != nil {
		return fmt.Errorf("--config %s: %w", path, err)
	}
	var unknown []string
	for _, field := range slices.Sorted(maps.Keys(fields)) {
		setting, has := settings[field]
		switch {
		case field == "apiVersion" || field == "kind" || fields[field] == nil:
		case !has:
			unknown = append(unknown, field)
		case !flags.Changed(setting.flag):
			if err := flags.Set(setting.flag, setting.text(&c)); err != nil {
				return fmt.Errorf("--config %s: %s: %w", path, field, err)
			}
		}
	}
	if len(unknown) > 0 {
		return fmt.Errorf("--config %s: skep-agent does not have %s: remove them; it has %s", path, strings.Join(unknown, ", "), strings.Join(slices.Sorted(maps.Keys(settings)), ", "))
	}
	return nil
}
