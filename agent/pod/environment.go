package pod

import (
	"context"
	"fmt"
	"net/netip"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/cache"

	"github.com/skep-io/skep/agent/downward"
	"github.com/skep-io/skep/agent/pod/life"
)

// environment is a container's variables, in order, and their lookup.
type environment struct {
	list   []string
	values map[string]string
}

func (e *environment) set(name, value string) {
	if _, ok := e.values[name]; ok {
		for i, kv := range e.list {
			if strings.HasPrefix(kv, name+"=") {
				e.list[i] = name + "=" + value
			}
		}
	} else {
		e.list = append(e.list, name+"="+value)
	}
	e.values[name] = value
}

// expand replaces $(NAME) by a variable's value; $$ stands for $, and $(NAME) stays as written if
// the variable is not set.
func (e *environment) expand(s string) string {
	if !strings.Contains(s, "$") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		switch s[i+1] {
		case '$':
			b.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(s[i+2:], ')')
			if end < 0 {
				b.WriteString("$(")
				i++
				continue
			}
			name := s[i+2 : i+2+end]
			if value, ok := e.values[name]; ok {
				b.WriteString(value)
			} else {
				b.WriteString("$(" + name + ")")
			}
			i += 2 + end
		default:
			b.WriteByte('$')
		}
	}
	return b.String()
}

// environment builds a container's variables: services first, then envFrom,
// then env, each of which overrides what came before.
func (w *worker) environment(ctx context.Context, pod *corev1.Pod, spec *corev1.Container, s *setup) (*environment, error) {
	e := &environment{values: map[string]string{}}
	e.set("HOSTNAME", w.hostname(pod))
	services, err := w.serviceVariables(ctx, pod)
	if err != nil {
		return nil, err
	}
	for _, v := range services {
		e.set(v.name, v.value)
	}
	for _, from := range spec.EnvFrom {
		if err := w.addFrom(ctx, e, pod, from); err != nil {
			return nil, err
		}
	}
	placed := withAddresses(pod, s, w.pods.cfg.NodeIPs)
	for _, variable := range spec.Env {
		value, skip, err := w.variable(ctx, e, placed, spec, variable)
		if err != nil {
			return nil, err
		}
		if !skip {
			e.set(variable.Name, value)
		}
	}
	return e, nil
}

func (w *worker) addFrom(ctx context.Context, e *environment, pod *corev1.Pod, from corev1.EnvFromSource) error {
	data := map[string]string{}
	switch {
	case from.ConfigMapRef != nil:
		object, err := w.pods.objects.ConfigMap(ctx, pod.Namespace, from.ConfigMapRef.Name)
		if err != nil {
			return ignoreMissing(err, from.ConfigMapRef.Optional)
		}
		data = object.Data
	case from.SecretRef != nil:
		object, err := w.pods.objects.Secret(ctx, pod.Namespace, from.SecretRef.Name)
		if err != nil {
			return ignoreMissing(err, from.SecretRef.Optional)
		}
		for k, v := range object.Data {
			data[k] = string(v)
		}
	}
	names := make([]string, 0, len(data))
	for name := range data {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		e.set(from.Prefix+name, data[name])
	}
	return nil
}

func ignoreMissing(err error, optional *bool) error {
	if apierrors.IsNotFound(err) && optional != nil && *optional {
		return nil
	}
	return err
}

// variable is one entry of env; skip leaves it unset (an optional reference).
func (w *worker) variable(ctx context.Context, e *environment, pod *corev1.Pod, spec *corev1.Container, v corev1.EnvVar) (value string, skip bool, err error) {
	from := v.ValueFrom
	switch {
	case from == nil:
		return e.expand(v.Value), false, nil
	case from.FieldRef != nil:
		value, err = downward.Field(pod, from.FieldRef.FieldPath)
		return value, false, err
	case from.ResourceFieldRef != nil:
		container := spec
		if name := from.ResourceFieldRef.ContainerName; name != "" && name != spec.Name {
			if container = life.ContainerSpec(pod, name); container == nil {
				return "", false, fmt.Errorf("container %s not found", name)
			}
		}
		value, err = downward.Resource(container, from.ResourceFieldRef, w.pods.cfg.Allocatable())
		return value, false, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		object, err := w.pods.objects.ConfigMap(ctx, pod.Namespace, ref.Name)
		if err != nil {
			return "", true, ignoreMissing(err, ref.Optional)
		}
		value, ok := object.Data[ref.Key]
		if !ok {
			return "", true, missingKey(ref.Key, "ConfigMap", pod.Namespace, ref.Name, ref.Optional)
		}
		return value, false, nil
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		object, err := w.pods.objects.Secret(ctx, pod.Namespace, ref.Name)
		if err != nil {
			return "", true, ignoreMissing(err, ref.Optional)
		}
		value, ok := object.Data[ref.Key]
		if !ok {
			return "", true, missingKey(ref.Key, "Secret", pod.Namespace, ref.Name, ref.Optional)
		}
		return string(value), false, nil
	}
	return "", true, fmt.Errorf("environment variable %s: this source is not supported", v.Name)
}

func missingKey(key, kind, namespace, name string, optional *bool) error {
	if optional != nil && *optional {
		return nil
	}
	return fmt.Errorf("couldn't find key %v in %s %v/%v", key, kind, namespace, name)
}

// needsAddress says whether a variable shows the pod's address.
func needsAddress(pod *corev1.Pod, spec *corev1.Container) bool {
	for _, v := range spec.Env {
		if v.ValueFrom != nil && v.ValueFrom.FieldRef != nil && strings.HasPrefix(v.ValueFrom.FieldRef.FieldPath, "status.podIP") {
			return true
		}
	}
	return false
}

type envVar struct{ name, value string }

// masterServices get variables in every namespace.
const (
	masterNamespace = "default"
	masterService   = "kubernetes"
)

// serviceVariables describe the services that the pod may use, in the form of Docker links.
func (w *worker) serviceVariables(ctx context.Context, pod *corev1.Pod) ([]envVar, error) {
	if w.pods.cfg.ServicesSynced != nil && !w.pods.cfg.ServicesSynced() {
		if !cache.WaitForCacheSync(ctx.Done(), w.pods.cfg.ServicesSynced) {
			return nil, fmt.Errorf("services have not been synced yet: %w", ctx.Err())
		}
	}
	links := pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks
	all, err := w.pods.cfg.Services.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	chosen := map[string]*corev1.Service{}
	for _, service := range all {
		if ip := service.Spec.ClusterIP; ip == "" || ip == corev1.ClusterIPNone {
			continue
		}
		master := service.Namespace == masterNamespace && service.Name == masterService
		own := links && service.Namespace == pod.Namespace
		if _, taken := chosen[service.Name]; own || master && !taken {
			chosen[service.Name] = service
		}
	}
	names := make([]string, 0, len(chosen))
	for name := range chosen {
		names = append(names, name)
	}
	sort.Strings(names)
	var list []envVar
	for _, name := range names {
		list = append(list, variablesOf(chosen[name])...)
	}
	return list, nil
}

func variablesOf(service *corev1.Service) []envVar {
	prefix := variableName(service.Name)
	ports, ip := service.Spec.Ports, service.Spec.ClusterIP
	if len(ports) == 0 {
		return nil
	}
	list := []envVar{{prefix + "_SERVICE_HOST", ip}, {prefix + "_SERVICE_PORT", fmt.Sprint(ports[0].Port)}}
	for _, port := range ports {
		if port.Name != "" {
			list = append(list, envVar{prefix + "_SERVICE_PORT_" + variableName(port.Name), fmt.Sprint(port.Port)})
		}
	}
	host := ip
	if strings.Contains(ip, ":") {
		host = "[" + ip + "]"
	}
	for i, port := range ports {
		protocol := string(port.Protocol)
		if protocol == "" {
			protocol = "TCP"
		}
		target := fmt.Sprintf("%s://%s:%d", strings.ToLower(protocol), host, port.Port)
		if i == 0 {
			list = append(list, envVar{prefix + "_PORT", target})
		}
		link := fmt.Sprintf("%s_PORT_%d_%s", prefix, port.Port, strings.ToUpper(protocol))
		list = append(list, envVar{link, target}, envVar{link + "_PROTO", strings.ToLower(protocol)},
			envVar{link + "_PORT", fmt.Sprint(port.Port)}, envVar{link + "_ADDR", ip})
	}
	return list
}

func variableName(s string) string {
	return strings.ToUpper(strings.ReplaceAll(s, "-", "_"))
}

// withAddresses is the pod as its own variables should see it: the node has addresses before the
// API server has them.
func withAddresses(pod *corev1.Pod, s *setup, nodeIPs []netip.Addr) *corev1.Pod {
	placed := *pod
	placed.Status.HostIPs, placed.Status.PodIPs = nil, nil
	for _, ip := range nodeIPs {
		placed.Status.HostIPs = append(placed.Status.HostIPs, corev1.HostIP{IP: ip.String()})
	}
	if len(placed.Status.HostIPs) > 0 {
		placed.Status.HostIP = placed.Status.HostIPs[0].IP
	}
	select {
	case <-s.network.done:
		if len(s.addrs) > 0 {
			placed.Status.PodIPs = life.PodIPs(s.addrs)
		} else if pod.Spec.HostNetwork {
			for _, ip := range placed.Status.HostIPs {
				placed.Status.PodIPs = append(placed.Status.PodIPs, corev1.PodIP(ip))
			}
		}
	default: // no variable needs it (needsAddress)
	}
	if len(placed.Status.PodIPs) > 0 {
		placed.Status.PodIP = placed.Status.PodIPs[0].IP
	}
	return &placed
}
