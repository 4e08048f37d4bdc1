package controlplane_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skep-io/skep/controlplane/jointoken"
	"github.com/skep-io/skep/controlplane/scheme"
)

// dnsDoor connects to etcd as cluster DNS does, with what its Secret holds.
func dnsDoor(t *testing.T, client kubernetes.Interface) *clientv3.Client {
	t.Helper()
	var secret *corev1.Secret
	for deadline := time.Now().Add(time.Minute); ; {
		var err error
		if secret, err = client.CoreV1().Secrets("kube-system").Get(t.Context(), "skep-dns-etcd", metav1.GetOptions{}); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		<-time.NewTimer(20 * time.Millisecond).C
	}
	pair, err := tls.X509KeyPair(secret.Data["tls.crt"], secret.Data["tls.key"])
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(secret.Data["ca.crt"])
	door, err := clientv3.New(clientv3.Config{
		Endpoints: []string{string(secret.Data["endpoints"])}, Logger: zap.NewNop(),
		TLS: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Certificates: []tls.Certificate{pair}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { door.Close() })
	return door
}

// An attacker in cluster DNS can read names and addresses, and neither Secrets nor the environment of pods. The first nodes' token expires.
func TestDNSSeesNoSecrets(t *testing.T) {
	client := start(t)
	door := dnsDoor(t, client)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Annotations: map[string]string{"a": "hidden-value"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i:1", Args: []string{"hidden-value"},
			Env: []corev1.EnvVar{{Name: "PASSWORD", Value: "hidden-value"}}}}},
	}
	pod, err := client.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod.Status.Phase, pod.Status.PodIP, pod.Status.PodIPs = corev1.PodRunning, "10.244.0.7", []corev1.PodIP{{IP: "10.244.0.7"}}
	pod.ResourceVersion = ""
	if _, err := client.CoreV1().Pods("default").UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	resp, err := door.Get(ctx, "/registry/pods/", clientv3.WithPrefix())
	if err != nil || len(resp.Kvs) != 1 || bytes.Contains(resp.Kvs[0].Value, []byte("hidden-value")) {
		t.Fatalf("pods as DNS sees them: %v, %v", resp, err)
	}
	obj, err := scheme.Codec.Decode(resp.Kvs[0].Value, resp.Kvs[0].ModRevision)
	if seen, ok := obj.(*corev1.Pod); err != nil || !ok || seen.Name != "p" || seen.Namespace != "default" || len(seen.Status.PodIPs) != 1 || seen.Status.Phase != corev1.PodRunning {
		t.Errorf("DNS sees %+v (%v), and answers from name and addresses", obj, err)
	}
	for _, prefix := range []string{"/registry/secrets/", "/registry/configmaps/", "/registry/services/endpoints/", "/registry/serviceaccounts/", "/registry/minions/", "/registry/", "/skep/", "/", ""} {
		if _, err := door.Get(ctx, prefix, clientv3.WithPrefix()); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%q: %v, want PermissionDenied", prefix, err)
		}
	}
	for _, prefix := range []string{"/registry/namespaces/", "/registry/services/specs/", "/registry/endpointslices/"} {
		if resp, err := door.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithLimit(1)); err != nil || len(resp.Kvs) == 0 && prefix == "/registry/namespaces/" {
			t.Errorf("%q: %v, %v", prefix, resp, err)
		}
	}

	tokens, err := client.CoreV1().Secrets("kube-system").List(ctx, metav1.ListOptions{FieldSelector: "type=bootstrap.kubernetes.io/token"})
	if err != nil || len(tokens.Items) != 1 {
		t.Fatalf("join tokens at first: %v, %v; want one", tokens, err)
	}
	token, err := jointoken.Of(&tokens.Items[0])
	if left := time.Until(token.Expires); err != nil || !token.Authentication || left <= 0 || left > jointoken.DefaultTTL {
		t.Errorf("the first token is %+v (%v)", token, err)
	}
}
