// Package runtimetest gives tests a real containerd of their own, an image to
// run, and a way to read what containers write. It owns nothing outside the
// folders of the test and never touches another containerd on the machine.
package runtimetest

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/skep-io/skep/agent/confine"
	"github.com/skep-io/skep/agent/runtime"
)

// Node is a runtime on a containerd that ends with the test.
type Node struct {
	*runtime.Runtime
	Daemon runtime.DaemonConfig
	Config runtime.Config
	Logs   *Logs

	t    testing.TB
	stop func()
}

// Start starts containerd and connects.
func Start(t testing.TB) *Node { return StartWith(t, func(*Node) {}) }

// StartWith is Start with a configuration that the test changes.
func StartWith(t testing.TB, change func(*Node)) *Node {
	t.Helper()
	dir := shortDir(t)
	n := &Node{
		t:      t,
		Logs:   &Logs{dir: filepath.Join(dir, "logs")},
		Daemon: runtime.DaemonConfig{Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "c")},
	}
	n.stop = func() {}
	n.Config = runtime.Config{
		CgroupParent: "/skep-runtime-test-" + filepath.Base(dir),
		StateDir:     filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run"),
		HostsDir: filepath.Join(dir, "certs.d"), Logs: n.Logs,
	}
	change(n)
	ctx, cancel := context.WithCancel(context.Background())
	daemon, err := runtime.StartContainerd(ctx, n.Daemon)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.Disconnect()
		n.removeAll()
		cancel()
		<-daemon.Done()
		if err := n.Daemon.Stop(context.Background()); err != nil {
			t.Errorf("stop containerd: %v", err)
		}
		removeCgroups(n.Config.CgroupParent)
		if err := confine.RemoveAll(dir); err != nil { // with volumes that the test did not remove itself

			t.Errorf("left behind: %v", err)
		}
	})
	n.Connect()
	return n
}

// Connect connects a new runtime, as a starting agent does.
func (n *Node) Connect() {
	n.t.Helper()
	r, err := runtime.Connect(context.Background(), n.Daemon.Address(), n.Config)
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	n.Runtime = r
	n.stop = sync.OnceFunc(func() {
		cancel()
		<-done
		r.Close()
	})
}

// Disconnect ends the runtime's connection, as when the agent ends.
func (n *Node) Disconnect() { n.stop() }

// removeAll removes all containers and mounts, whatever the test did.
func (n *Node) removeAll() {
	n.Connect()
	defer n.Disconnect()
	for _, c := range n.Containers() {
		if err := n.Stop(context.Background(), c.ID, 0); err != nil {
			n.t.Errorf("stop %s: %v", c.ID, err)
		}
	}
	n.Disconnect()
	n.Connect()
	for _, uid := range n.PodUIDs() {
		if err := n.RemoveSandbox(uid); err != nil {
			n.t.Error(err)
		}
	}
}

// shortDir is a folder whose sockets fit in a Unix address.
func shortDir(t testing.TB) string {
	dir, err := os.MkdirTemp("", "skrt")
	if err == nil {
		err = os.Chmod(dir, 0o711) // root of a user namespace must be able to enter it, as an agent's folders
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func removeCgroups(parent string) {
	roots, _ := filepath.Glob("/sys/fs/cgroup/*" + parent)
	for _, root := range append(roots, "/sys/fs/cgroup"+parent) {
		var dirs []string
		_ = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for i := len(dirs) - 1; i >= 0; i-- {
			_ = os.Remove(dirs[i])
		}
	}
}

// Image is a busybox image; change edits its configuration.
func Image(t testing.TB, change func(*v1.Config)) v1.Image {
	t.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("busybox is needed (Debian: busybox-static): %v", err)
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	file := func(name string, mode int64, data []byte) {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(data)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write(data)
	}
	file("bin/busybox", 0o755, busybox)
	for _, applet := range []string{"sh", "cat", "echo", "sleep", "id", "nc", "httpd", "hostname", "env", "ls", "kill", "true", "false", "touch", "wget", "ip", "dd", "tail", "stat", "mkdir", "stty"} {
		if err := w.WriteHeader(&tar.Header{Name: "bin/" + applet, Linkname: "busybox", Typeflag: tar.TypeSymlink, Mode: 0o777}); err != nil {
			t.Fatal(err)
		}
	}
	file("etc/passwd", 0o644, []byte("root:x:0:0:root:/:/bin/sh\napp:x:1234:2345:app:/:/bin/sh\n"))
	file("etc/group", 0o644, []byte("root:x:0:\napp:x:2345:\nwheel:x:10:root,app\n"))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		t.Fatal(err)
	}
	file1, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file1 = file1.DeepCopy()
	file1.OS, file1.Architecture = "linux", goarch
	file1.Config.Env = []string{"PATH=/bin"}
	if change != nil {
		change(&file1.Config)
	}
	if img, err = mutate.ConfigFile(img, file1); err != nil {
		t.Fatal(err)
	}
	return img
}

// Archive is the image as `docker save` would write it.
func Archive(t testing.TB, ref string, img v1.Image) *bytes.Buffer {
	t.Helper()
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := tarball.Write(tag, img, &b); err != nil {
		t.Fatal(err)
	}
	return &b
}

// Logs keeps what containers write, in memory and as the log file that the
// runtime names.
type Logs struct {
	dir string

	mu      sync.Mutex
	outputs map[string]*output
}

type output struct {
	text  bytes.Buffer
	files []*os.File
}

// Open makes the FIFOs and reads them.
func (l *Logs) Open(podUID, container string, attempt int, id string, _ bool) (string, string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.outputs == nil {
		l.outputs = map[string]*output{}
	}
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return "", "", err
	}
	out := &output{}
	l.outputs[id] = out
	var paths []string
	for _, stream := range []string{"stdout", "stderr"} {
		path := filepath.Join(l.dir, id[:12]+"-"+stream)
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			return "", "", err
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0) // open for writing too: no end of file between writers
		if err != nil {
			return "", "", err
		}
		out.files = append(out.files, f)
		paths = append(paths, path)
		go func() {
			for scan := bufio.NewReader(f); ; {
				line, err := scan.ReadString('\n')
				l.mu.Lock()
				out.text.WriteString(line)
				l.mu.Unlock()
				if err != nil {
					return
				}
			}
		}()
	}
	return paths[0], paths[1], nil
}

// Close ends the reading.
func (l *Logs) Close(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if out := l.outputs[id]; out != nil {
		for _, f := range out.files {
			f.Close()
			os.Remove(f.Name())
		}
		out.files = nil
	}
}

// Retain closes all logs for which keep is false.
func (l *Logs) Retain(keep func(id string) bool) {
	l.mu.Lock()
	var gone []string
	for id := range l.outputs {
		if !keep(id) {
			gone = append(gone, id)
		}
	}
	l.mu.Unlock()
	for _, id := range gone {
		l.Close(id)
	}
}

// Text is a container's output so far.
func (l *Logs) Text(id string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if out := l.outputs[id]; out != nil {
		return out.text.String()
	}
	return ""
}

// Eventually polls until the condition holds, and fails the test after a minute. It is for states
// that have no event to wait for.
func Eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not in a minute: %s", what)
		}
	}
}
