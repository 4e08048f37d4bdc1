package usage

import (
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/agent/confine"
)

var needQuotas = flag.Bool("quotas", false, "the kernel must count by project (test/floor's does)")

// TestMain also plays the container that would have its files counted for another: with a path and a project it tries.
func TestMain(m *testing.M) {
	flag.Parse()
	if path := os.Getenv("SKEP_TEST_PROJECT_OF"); path != "" {
		id, err := strconv.ParseUint(os.Getenv("SKEP_TEST_PROJECT"), 10, 32)
		if err == nil {
			err = setProject(path, uint32(id))
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func setProject(path string, id uint32) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	attributes, err := projectOf(dir)
	if err != nil {
		return err
	}
	attributes.project = id
	return ioctl(dir, setAttributes, &attributes)
}

// quotaDisk is an ext4 file system that counts by project: testdata has it as mkfs.ext4 -O quota,project -E quotatype=prjquota
// makes it. ok is false where the kernel was built without quotas.
func quotaDisk(t *testing.T) (dir string, ok bool) {
	t.Helper()
	packed, err := os.Open("testdata/prjquota.ext4.gz")
	must(t, err)
	defer packed.Close()
	data, err := gzip.NewReader(packed)
	must(t, err)
	folder := t.TempDir()
	disk, err := os.Create(filepath.Join(folder, "disk"))
	must(t, err)
	_, err = io.Copy(disk, data)
	must(t, errors.Join(err, disk.Close()))
	dir = filepath.Join(folder, "mounted")
	must(t, os.Mkdir(dir, 0o700))
	out, err := exec.Command("busybox", "mount", "-t", "ext4", "-o", "loop,prjquota", disk.Name(), dir).CombinedOutput()
	if err != nil {
		if *needQuotas {
			t.Fatalf("mount: %v: %s", err, out)
		}
		t.Logf("this kernel does not count by project: %s", out)
		return "", false
	}
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir, true
}

func TestProjectsAreCountedByTheKernel(t *testing.T) {
	var q Quotas
	if err := q.Assign(inTmpfs(t)); !errors.Is(err, ErrNoQuotas) {
		t.Errorf("a tmpfs counts by project: %v", err)
	}
	disk, ok := quotaDisk(t)
	if !ok {
		return // test/floor has a kernel that does
	}
	a, b := filepath.Join(disk, "a"), filepath.Join(disk, "b")
	for _, dir := range []string{a, b} {
		must(t, os.Mkdir(dir, 0o700))
		must(t, q.Assign(dir))
	}
	must(t, os.MkdirAll(filepath.Join(a, "x", "y"), 0o700))
	must(t, os.WriteFile(filepath.Join(a, "x", "y", "file"), make([]byte, 300<<10), 0o600))
	unix.Sync() // blocks are found when it is written
	for _, dir := range []string{a, b} {
		c, err := begin(dir)
		must(t, err)
		for done := false; !done; done, err = c.goOn(time.Now().Add(time.Minute)) {
		}
		must(t, err)
		if got, ok, err := counted(dir); err != nil || !ok || got != c.amount() {
			t.Errorf("%s: the kernel counts %+v (%v, %v), a walk %+v", dir, got, ok, err, c.amount())
		}
		c.close()
	}
	if _, ok, err := counted(disk); ok || err != nil {
		t.Errorf("a folder that has no project is counted: %v", err)
	}
	t.Run("not from a user namespace", func(t *testing.T) { changeProject(t, a, b) })
	// What is removed and still open is counted by the kernel alone: so the meter asked it.
	held, err := os.Create(filepath.Join(a, "held"))
	must(t, err)
	defer held.Close()
	_, err = held.Write(make([]byte, 200<<10))
	must(t, err)
	must(t, os.Remove(held.Name()))
	p := &pods{trees: map[string][]Tree{"a": {{Key: Key{Volume, "v"}, Path: a, Counted: true}}, "walked": {{Key: Key{Volume, "v"}, Path: a}}}}
	m := New(p.config())
	for _, uid := range []string{"a", "walked"} {
		one := &measurement{uid: uid}
		m.turn(t.Context(), one)
	}
	asked, _ := m.Pod("a")
	walked, _ := m.Pod("walked")
	if asked.Total().Bytes < walked.Total().Bytes+200<<10 || asked.Total().Inodes != walked.Total().Inodes+1 {
		t.Errorf("asked: %+v, walked: %+v", asked.Total(), walked.Total())
	}
	held.Close()
	freed(t, disk, a)
}

// changeProject: root of a container that has its own users cannot have its files counted for others.
func changeProject(t *testing.T, a, b string) {
	dir, err := os.Open(b)
	must(t, err)
	defer dir.Close()
	other, err := projectOf(dir)
	must(t, err)
	folder := filepath.Dir(filepath.Dir(a))
	for _, p := range []string{filepath.Dir(folder), folder, filepath.Dir(a), a, filepath.Join(a, "x")} {
		must(t, os.Chmod(p, 0o755))
	}
	must(t, os.Chown(filepath.Join(a, "x"), 70000, 70000))
	try := exec.Command("/proc/self/exe")
	try.Env = append(os.Environ(), "SKEP_TEST_PROJECT_OF="+filepath.Join(a, "x"), "SKEP_TEST_PROJECT="+strconv.Itoa(int(other.project)))
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 70000, Size: 1}}
	try.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids, Credential: &syscall.Credential{NoSetGroups: true}}
	if out, err := try.CombinedOutput(); err == nil {
		t.Errorf("a user namespace changed a project: %s", out)
	} else {
		t.Logf("refused: %s", out)
	}
	if err := setProject(filepath.Join(a, "x"), other.project); err != nil {
		t.Errorf("outside of a user namespace the owner can, which is why only those are counted so: %v", err)
	}
	mine, err := os.Open(a)
	must(t, err)
	defer mine.Close()
	attributes, err := projectOf(mine)
	must(t, err)
	must(t, setProject(filepath.Join(a, "x"), attributes.project))
}

// freed: an ID is free once its folder was removed, whichever agent assigned it, and not before.
func freed(t *testing.T, disk, dir string) {
	at, err := os.Open(dir)
	must(t, err)
	attributes, err := projectOf(at)
	must(t, err)
	at.Close()
	root, err := os.Open(disk)
	must(t, err)
	defer root.Close()
	if before, err := inProject(root, attributes.project); err != nil || before.inodes == 0 {
		t.Fatalf("before: %+v, %v", before, err)
	}
	must(t, confine.RemoveAll(dir))
	if after, err := inProject(root, attributes.project); err != nil || after != (quota{}) {
		t.Errorf("after its folder has gone a project has %+v, %v", after, err)
	}
}
