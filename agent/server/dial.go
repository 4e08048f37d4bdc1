package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// dialLoopback connects to a port on the loopback addresses of the network namespace that is pinned at a path, or of the node's
// if the path is empty.
func dialLoopback(ctx context.Context, namespace string, port int32) (conn *net.TCPConn, err error) {
	if namespace == "" {
		return dialEither(ctx, port)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		// Not unlocked: a thread that has been in another namespace ends with its goroutine.
		if err = enterNetwork(namespace); err != nil {
			return
		}
		conn, err = dialEither(ctx, port)
	}()
	<-done
	return conn, err
}

func enterNetwork(namespace string) error {
	fd, err := unix.Open(namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("network namespace %s: %w", namespace, err)
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", namespace, err)
	}
	return nil
}

// dialEither tries IPv4 first. The dial of one literal address stays on the calling goroutine, and so in its namespace.
func dialEither(ctx context.Context, port int32) (*net.TCPConn, error) {
	d := net.Dialer{Timeout: 10 * time.Second}
	var failed []error
	for _, host := range []string{"127.0.0.1", "::1"} {
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
		if err == nil {
			return conn.(*net.TCPConn), nil
		}
		failed = append(failed, err)
	}
	return nil, errors.Join(failed...)
}
