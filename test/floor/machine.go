package floor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

const emulator = "qemu-system-x86_64"

// accelerator is a way to run the guest's instructions.
type accelerator struct {
	name string
	args []string
	boot time.Duration // until the guest's first answer
}

var (
	hardware = accelerator{"kvm", []string{"-accel", "kvm", "-cpu", "host"}, 30 * time.Second}
	// Every feature that the emulator has: with SSE4.2 and such, checksums are quick.
	software = accelerator{"tcg", []string{"-accel", "tcg,thread=multi", "-cpu", "max"}, 2 * time.Minute}
)

var virtualization = regexp.MustCompile(`(?m)^flags\s*:.* (vmx|svm)( |$)`)

// accelerators are those to try, in order. A /dev/kvm on a processor that shows
// no virtualization is emulated by the host, and guests may never start with it.
func accelerators() []accelerator {
	device, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return []accelerator{software}
	}
	device.Close()
	processor, err := os.ReadFile("/proc/cpuinfo")
	if err != nil || !virtualization.Match(processor) {
		return []accelerator{software}
	}
	return []accelerator{hardware, software}
}

var errSilent = errors.New("the guest did not start")

// machine is a virtual machine to boot.
type machine struct {
	kernel  *kernel
	initrd  string
	console string // file for the kernel's output
	limit   time.Duration
}

// run boots the machine and hands every line of its answers to the function,
// until the guest is off.
func (m *machine) run(ctx context.Context, a accelerator, line func(string)) error {
	ctx, stop := context.WithTimeout(ctx, m.limit)
	defer stop()
	// "quiet" leaves warnings and worse on the console.
	words := "console=ttyS0 quiet panic=-1 mitigations=off"
	args := append([]string{"-m", "2G", "-smp", "2", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-kernel", m.kernel.image, "-initrd", m.initrd, "-append", words,
		"-serial", "file:" + m.console, "-serial", "stdio"}, a.args...)
	cmd := exec.CommandContext(ctx, emulator, args...)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the virtual machine: %w", err)
	}
	spoke := false
	silence := time.AfterFunc(a.boot, stop)
	lines := bufio.NewReader(out)
	for {
		text, err := lines.ReadString('\n')
		if err != nil {
			break
		}
		spoke = true
		silence.Stop()
		line(strings.TrimRight(text, "\r\n"))
	}
	silence.Stop()
	err = cmd.Wait()
	switch {
	case !spoke:
		return fmt.Errorf("%w within %v with %s (%v): %s%s", errSilent, a.boot, a.name, err, said.String(), m.lastWords())
	case ctx.Err() != nil:
		return fmt.Errorf("the guest was not done after %v with %s%s", m.limit, a.name, m.lastWords())
	case err != nil:
		return fmt.Errorf("%s: %w: %s%s", emulator, err, said.String(), m.lastWords())
	}
	return nil
}

// lastWords are the end of the console.
func (m *machine) lastWords() string {
	text, err := os.ReadFile(m.console)
	if err != nil {
		return "\n(no console: " + err.Error() + ")"
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return fmt.Sprintf("\nThe end of the kernel's console (all of it in %s):\n%s",
		filepath.Clean(m.console), strings.Join(lines[max(0, len(lines)-40):], "\n"))
}
