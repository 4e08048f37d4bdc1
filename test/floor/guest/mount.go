//go:build linux

package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// mountAll mounts what a booted host has, with cgroup v2 alone, as distributions
// of that age do.
func mountAll() error {
	for _, m := range []struct{ kind, at string }{
		{"proc", "/proc"},
		{"sysfs", "/sys"},
		{"devtmpfs", "/dev"},
		{"tmpfs", "/run"},
		{"tmpfs", "/tmp"},
		{"cgroup2", "/sys/fs/cgroup"},
		{"bpf", "/sys/fs/bpf"},
	} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s at %s: %w", m.kind, m.at, err)
		}
	}
	// As systemd-tmpfiles makes them: opening one loads its module.
	if err := os.Mkdir("/dev/net", 0o755); err != nil {
		return err
	}
	for path, minor := range map[string]uint32{"/dev/net/tun": 200, "/dev/loop-control": 237} {
		if err := unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(10, minor))); err != nil && err != unix.EEXIST {
			return fmt.Errorf("make %s: %w", path, err)
		}
	}
	return nil
}

// openPort opens a serial port that passes bytes as they are.
func openPort(path string) (*os.File, error) {
	port, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	mode, err := unix.IoctlGetTermios(int(port.Fd()), unix.TCGETS)
	if err == nil {
		mode.Oflag &^= unix.OPOST
		err = unix.IoctlSetTermios(int(port.Fd()), unix.TCSETS, mode)
	}
	if err != nil {
		port.Close()
		return nil, fmt.Errorf("set up %s: %w", path, err)
	}
	return port, nil
}
