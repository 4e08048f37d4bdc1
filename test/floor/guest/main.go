//go:build linux

// Command guest is the first process of a virtual machine: it mounts what the
// data plane needs, runs the test binaries of its plan one after another,
// passes on their output, and turns the machine off. It owns the machine,
// and refuses to run as anything but its first process.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/test/floor/plan"
)

// answers is the serial port that the host reads; the kernel's console is the
// first one.
const answers = "/dev/ttyS1"

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "guest: runs as the first process of a virtual machine only")
		os.Exit(1)
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
	}
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Fprintln(os.Stderr, "guest: power off:", err)
	}
}

func run() error {
	if err := mountAll(); err != nil {
		return err
	}
	port, err := openPort(answers)
	if err != nil {
		return err
	}
	defer port.Close()
	if err := runPlan(port); err != nil {
		fmt.Fprintf(port, "%s%v\n", plan.Broken, err)
		return err
	}
	fmt.Fprintln(port, plan.Done)
	return nil
}

func runPlan(port io.Writer) error {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return fmt.Errorf("read the kernel's version: %w", err)
	}
	fmt.Fprintf(port, "%s%s\n", plan.Kernel, unix.ByteSliceToString(uts.Release[:]))
	if err := loopbackUp(); err != nil {
		return err
	}
	data, err := os.ReadFile(plan.File)
	if err != nil {
		return err
	}
	var runs []plan.Run
	if err := json.Unmarshal(data, &runs); err != nil {
		return fmt.Errorf("%s: %w", plan.File, err)
	}
	for _, r := range runs {
		fmt.Fprintf(port, "%s%s\n", plan.Began, r.Folder)
		verdict := "ok"
		if err := runOne(port, r); err != nil {
			verdict = err.Error()
		}
		fmt.Fprintf(port, "%s%s\n", plan.Ended, verdict)
	}
	return nil
}

// runOne runs a test binary and passes its lines on as they come.
func runOne(port io.Writer, r plan.Run) error {
	ctx, stop := context.WithTimeout(context.Background(), r.Limit)
	defer stop()
	folder := filepath.Join(plan.Tree, r.Folder)
	cmd := exec.CommandContext(ctx, filepath.Join(folder, r.Binary), r.Args...)
	cmd.Dir = folder
	cmd.Env = append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TMPDIR=/tmp"}, r.Env...)
	cmd.WaitDelay = time.Second
	out, in := io.Pipe()
	cmd.Stdout, cmd.Stderr = in, in
	passed := make(chan struct{})
	go func() {
		defer close(passed)
		lines := bufio.NewReader(out)
		for {
			line, err := lines.ReadString('\n')
			if line != "" {
				fmt.Fprintf(port, "%s%s\n", plan.Output, trimNewline(line))
			}
			if err != nil {
				return
			}
		}
	}()
	err := cmd.Run()
	in.Close()
	<-passed
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("killed after %v", r.Limit)
	}
	return err
}

func trimNewline(line string) string {
	if n := len(line); n > 0 && line[n-1] == '\n' {
		return line[:n-1]
	}
	return line
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find the loopback interface: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set the loopback interface up: %w", err)
	}
	return nil
}
