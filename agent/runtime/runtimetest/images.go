package runtimetest

import (
	"archive/tar"
	"bytes"
	"context"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"

	"github.com/skep-io/skep/agent/runtime"
)

// TarFile is an archive of one file.
func TarFile(t testing.TB, name string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Unpin makes a loaded image like a pulled one.
func (n *Node) Unpin(t testing.TB, name string) {
	t.Helper()
	client := n.Containerd(t)
	defer client.Close()
	ctx := context.Background()
	img, err := client.ImageService().Get(ctx, name)
	if err == nil {
		img.Labels = nil
		_, err = client.ImageService().Update(ctx, img, "labels")
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Containerd is a client of the test's own, to inspect containerd directly.
func (n *Node) Containerd(t testing.TB) *containerd.Client {
	t.Helper()
	client, err := containerd.New(n.Daemon.Address(), containerd.WithDefaultNamespace(runtime.Namespace))
	if err != nil {
		t.Fatal(err)
	}
	return client
}
