package volume

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// soon fails the test if f waits, as opening a FIFO would.
func soon(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("the agent waits for what a container planted")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func configMap(value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{Data: map[string]string{"key": value}}
}

func configMapVolume() corev1.Volume {
	return corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "c"}}}}
}

func emptyDirVolume() corev1.Volume {
	return corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}
}

func TestContentSurvivesTheAgent(t *testing.T) {
	g := &given{configMaps: map[string]*corev1.ConfigMap{"c": configMap("1")}}
	v := testVolumes(t, g)
	pod := podWith(configMapVolume())
	setUp := func(v *Volumes) (dir, version string) {
		t.Helper()
		paths, _, err := v.SetUp(t.Context(), pod)
		must(t, err)
		version, err = os.Readlink(filepath.Join(paths["v"], dataLink))
		must(t, err)
		return paths["v"], version
	}
	_, first := setUp(v)
	next := New(v.podDir, v.recordDir, g, v.allocatable, v.memoryLimit)
	dir, again := setUp(next)
	if again != first {
		t.Error("the next agent wrote again what had not changed")
	}
	must(t, os.RemoveAll(v.recordDir("uid"))) // a reboot, or an agent that kept no records
	if _, version := setUp(next); version == first {
		t.Error("content that nothing is known of was not written again")
	}
	g.configMaps["c"] = configMap("2")
	setUp(next)
	if got := read(t, filepath.Join(dir, "key")); got != "2" {
		t.Errorf("content %q", got)
	}
	mode := int32(0o400)
	pod.Spec.Volumes[0].ConfigMap.DefaultMode = &mode
	setUp(next)
	if info, err := os.Stat(filepath.Join(dir, "key")); err != nil || info.Mode().Perm() != 0o400 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// CVE-2017-1002102: files that a container planted in a configuration volume are neither read, nor waited for, nor written
// through.
func TestPlantedContentIsNotFollowed(t *testing.T) {
	outside := t.TempDir()
	huge := filepath.Join(outside, "huge")
	must(t, os.WriteFile(huge, nil, 0o600))
	must(t, os.Truncate(huge, 256<<20))
	for name, plant := range map[string]func(dir string) error{
		"data is huge": func(dir string) error {
			must(t, os.Mkdir(filepath.Join(dir, "planted"), 0o700))
			must(t, os.Symlink(huge, filepath.Join(dir, "planted", "key")))
			must(t, os.Remove(filepath.Join(dir, dataLink)))
			return os.Symlink("planted", filepath.Join(dir, dataLink))
		},
		"data leads out": func(dir string) error {
			must(t, os.Remove(filepath.Join(dir, dataLink)))
			return os.Symlink(outside, filepath.Join(dir, dataLink))
		},
		"data is a folder": func(dir string) error {
			must(t, os.Remove(filepath.Join(dir, dataLink)))
			return os.MkdirAll(filepath.Join(dir, dataLink, "full"), 0o700)
		},
		"a FIFO": func(dir string) error {
			version, err := os.Readlink(filepath.Join(dir, dataLink))
			must(t, err)
			must(t, os.Remove(filepath.Join(dir, version, "key")))
			return unix.Mkfifo(filepath.Join(dir, version, "key"), 0o600)
		},
		"a name leads out": func(dir string) error {
			must(t, os.Remove(filepath.Join(dir, "key")))
			return os.Symlink(filepath.Join(outside, "huge"), filepath.Join(dir, "key"))
		},
		"a name is a folder": func(dir string) error {
			must(t, os.Remove(filepath.Join(dir, "key")))
			must(t, os.MkdirAll(filepath.Join(dir, "key", "full"), 0o700))
			return os.Symlink(outside, filepath.Join(dir, "..vplanted"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := &given{configMaps: map[string]*corev1.ConfigMap{"c": configMap("1")}}
			v := testVolumes(t, g)
			pod := podWith(configMapVolume())
			paths, _, err := v.SetUp(t.Context(), pod)
			must(t, err)
			must(t, plant(paths["v"]))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			soon(t, func() { // a start, with content that has not changed
				if _, _, err := v.SetUp(t.Context(), pod); err != nil {
					t.Error(err)
				}
			})
			g.configMaps["c"] = configMap("2")
			soon(t, func() {
				if _, _, err := v.SetUp(t.Context(), pod); err != nil {
					t.Error(err)
				}
			})
			runtime.ReadMemStats(&after)
			if grew := after.TotalAlloc - before.TotalAlloc; grew > 64<<20 {
				t.Errorf("%d MiB of what the container planted were read", grew>>20)
			}
			if info, err := os.Stat(filepath.Join(paths["v"], "key")); err != nil || info.Size() != 1 || read(t, filepath.Join(paths["v"], "key")) != "2" {
				t.Errorf("the content is not there: %v, %v", info, err)
			}
			if entries, err := os.ReadDir(outside); err != nil || len(entries) != 1 {
				t.Errorf("the planted link was followed: %v, %v", entries, err)
			}
		})
	}
}

// A container that swaps folders for links as fast as it can, while the agent writes.
func TestRefreshRacesPlantedLinks(t *testing.T) {
	outside, aside := t.TempDir(), t.TempDir()
	g := &given{configMaps: map[string]*corev1.ConfigMap{"c": configMap("0")}}
	v := testVolumes(t, g)
	pod := podWith(configMapVolume())
	paths, _, err := v.SetUp(t.Context(), pod)
	must(t, err)
	dir := paths["v"]
	stop := make(chan struct{})
	var attack sync.WaitGroup
	attack.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			f, err := os.Open(dir)
			if err != nil {
				continue
			}
			names, _ := f.Readdirnames(-1)
			f.Close()
			for _, name := range names {
				if strings.HasPrefix(name, "..v") {
					path := filepath.Join(dir, name)
					if os.Rename(path, filepath.Join(aside, fmt.Sprint(n))) == nil {
						_ = os.Symlink(outside, path)
					}
				}
			}
		}
	})
	for i := range 200 {
		g.configMaps["c"] = configMap(fmt.Sprint(i))
		_, _, _ = v.SetUp(t.Context(), pod) // it may fail: its folder was taken away
	}
	close(stop)
	attack.Wait()
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 0 {
		t.Errorf("written through a planted link: %v, %v", entries, err)
	}
	g.configMaps["c"] = configMap("last")
	_, _, err = v.SetUp(t.Context(), pod)
	must(t, err)
	if got := read(t, filepath.Join(dir, "key")); got != "last" {
		t.Errorf("content %q after the attack", got)
	}
}

// Opening a FIFO waits for its other end, opening a device may do anything.
func TestPlantedFIFOsAreNotOpened(t *testing.T) {
	v := testVolumes(t, &given{})
	paths, _, err := v.SetUp(t.Context(), podWith(emptyDirVolume()))
	must(t, err)
	fifo := filepath.Join(paths["v"], "fifo")
	must(t, unix.Mkfifo(fifo, 0o600))
	soon(t, func() {
		target, err := v.SubPath(t.Context(), "uid", "v", "c", 0, paths["v"], "fifo")
		if err != nil {
			t.Error(err)
			return
		}
		if info, err := os.Lstat(target); err != nil || info.Mode().Type() != os.ModeNamedPipe {
			t.Errorf("mounted %v, %v", info, err)
		}
	})
	kind := corev1.HostPathFileOrCreate
	host := corev1.Volume{Name: "h", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: fifo, Type: &kind}}}
	soon(t, func() {
		if _, _, err := v.SetUp(t.Context(), podWith(host)); err == nil || !strings.Contains(err.Error(), "is not a file") {
			t.Errorf("error %v", err)
		}
	})
	host.HostPath.Path = filepath.Join(paths["v"], "new")
	_, _, err = v.SetUp(t.Context(), podWith(host))
	must(t, err)
}

// A container with mountPropagation: Bidirectional leaves mounts in its volumes. What is mounted stays as it is.
func TestTearDownEntersNoMount(t *testing.T) {
	v := testVolumes(t, &given{})
	paths, _, err := v.SetUp(t.Context(), podWith(emptyDirVolume()))
	must(t, err)
	disk := t.TempDir()
	precious := filepath.Join(disk, "precious")
	must(t, os.WriteFile(precious, nil, 0o600))
	for _, at := range []string{"a/disk", "b b"} {
		at = filepath.Join(paths["v"], at)
		must(t, os.MkdirAll(at, 0o700))
		must(t, unix.Mount(disk, at, "", unix.MS_BIND, ""))
		t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	}
	_, err = v.SubPath(t.Context(), "uid", "v", "c", 0, paths["v"], "a/disk")
	must(t, err)
	must(t, v.TearDown("uid"))
	if _, err := os.Stat(precious); err != nil {
		t.Errorf("removed through a mount: %v", err)
	}
}

func TestEmptyDirsBelongToTheGroup(t *testing.T) {
	v := testVolumes(t, &given{})
	group := int64(4321)
	memory := emptyDirVolume()
	memory.Name, memory.EmptyDir.Medium = "m", corev1.StorageMediumMemory
	pod := podWith(emptyDirVolume(), memory)
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &group}
	paths, _, err := v.SetUp(t.Context(), pod)
	must(t, err)
	for name, path := range paths {
		var st unix.Stat_t
		must(t, unix.Stat(path, &st))
		if st.Mode&0o7777 != 0o2777 || int64(st.Gid) != group {
			t.Errorf("%s: mode %o, group %d", name, st.Mode, st.Gid)
		}
		must(t, unix.Chmod(path, 0o700))
	}
	_, _, err = v.SetUp(t.Context(), pod)
	must(t, err)
	for name, path := range paths {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: what its users changed was changed back: %v, %v", name, info.Mode(), err)
		}
	}
}
