package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/restmapper"

	"github.com/skep-io/skep/cmd/skep/images"
	"github.com/skep-io/skep/docs/examples"
)

// leastDNS is the number of DNS pods where there are fewer hosts: one can be replaced while the other answers.
const leastDNS = 2

// ensureDNS loads the DNS image to the hosts, applies the manifest of docs/examples with a pod for each host,
// and waits until a DNS pod is ready.
func (c *Cluster) ensureDNS(ctx context.Context) error {
	client, err := c.Client()
	if err != nil {
		return err
	}
	st, err := c.load()
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	if err := images.Write(&archive, images.DNSImage(st.Bin.DNS)); err != nil {
		return err
	}
	var nodes []string
	for _, name := range st.nodeNames() {
		if !st.Nodes[name].Cut && !c.cgroups.frozen(nodeCgroup(c.Name, name)) {
			nodes = append(nodes, name)
		}
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive.Bytes())), nil }
	if err := LoadImage(ctx, client, nodes, open, nil); err != nil {
		return fmt.Errorf("load its image: %w", err)
	}
	manifest, err := examples.Files.ReadFile("skep-dns.yaml")
	if err != nil {
		return err
	}
	replicas := max(leastDNS, len(st.Nodes))
	err = c.apply(ctx, manifest, func(object *unstructured.Unstructured) error {
		if object.GetKind() != "ReplicationController" {
			return nil
		}
		return unstructured.SetNestedField(object.Object, int64(replicas), "spec", "replicas")
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	return awaitReadyReplica(ctx, client, "kube-system", "skep-dns")
}

// Apply creates the objects of a YAML stream, or merges them into those that
// exist. Objects without a namespace go to "default".
func (c *Cluster) Apply(ctx context.Context, manifest []byte) error {
	return c.apply(ctx, manifest, func(*unstructured.Unstructured) error { return nil })
}

// apply is Apply with a change of each object.
func (c *Cluster) apply(ctx context.Context, manifest []byte, change func(*unstructured.Unstructured) error) error {
	config, err := c.RESTConfig()
	if err != nil {
		return err
	}
	objects, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery()))
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifest), 4096)
	for {
		object := &unstructured.Unstructured{}
		if err := decoder.Decode(object); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if len(object.Object) == 0 {
			continue
		}
		if err := change(object); err != nil {
			return err
		}
		if err := applyObject(ctx, objects, mapper, object); err != nil {
			return fmt.Errorf("%s %s: %w", object.GetKind(), object.GetName(), err)
		}
	}
}

func applyObject(ctx context.Context, objects dynamic.Interface, mapper meta.RESTMapper, object *unstructured.Unstructured) error {
	gvk := object.GroupVersionKind()
	mapping, err := mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		return err
	}
	var resource dynamic.ResourceInterface = objects.Resource(mapping.Resource)
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		namespace := object.GetNamespace()
		if namespace == "" {
			namespace = metav1.NamespaceDefault
		}
		resource = objects.Resource(mapping.Resource).Namespace(namespace)
	}
	// Get first: creating a service that exists fails on its address, which is in use, and not on its name.
	if _, err := resource.Get(ctx, object.GetName(), metav1.GetOptions{}); apierrors.IsNotFound(err) {
		_, err := resource.Create(ctx, object, metav1.CreateOptions{FieldManager: "skep"})
		return err
	} else if err != nil {
		return err
	}
	patch, err := json.Marshal(object)
	if err != nil {
		return err
	}
	_, err = resource.Patch(ctx, object.GetName(), types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "skep"})
	return err
}

// awaitReadyReplica watches a replication controller until one pod of it is ready.
func awaitReadyReplica(ctx context.Context, client kubernetes.Interface, namespace, name string) error {
	controllers := client.CoreV1().ReplicationControllers(namespace)
	for {
		rc, err := controllers.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if rc.Status.ReadyReplicas > 0 {
			return nil
		}
		events, err := controllers.Watch(ctx, metav1.ListOptions{
			FieldSelector: "metadata.name=" + name, ResourceVersion: rc.ResourceVersion,
		})
		if err != nil {
			return err
		}
		ready := false
		for event := range events.ResultChan() {
			rc, ok := event.Object.(*corev1.ReplicationController)
			if ok && event.Type != watch.Deleted && rc.Status.ReadyReplicas > 0 {
				ready = true
				break
			}
		}
		events.Stop()
		if ready {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("no pod of %s/%s is ready: see `skep -n %s describe pods`", namespace, name, namespace)
		}
	}
}
