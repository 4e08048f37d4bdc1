package sockets

import (
	"fmt"
	"net"
	"os/exec"
	"testing"

	"github.com/skep-io/skep/dataplane/sandbox"
)

// What programs of a namespace have accepted is counted, and neither what they listen at, have opened themselves, nor talk over loopback.
func TestAccepted(t *testing.T) {
	ns := sandbox.NewNamespace(t)
	want := func(count int, when string) error {
		got, err := Accepted("/proc/thread-self/ns/net")
		if err == nil && got != count {
			err = fmt.Errorf("%s: %d connections, want %d", when, got, count)
		}
		return err
	}
	ns.Do(func() error {
		if out, err := exec.Command("ip", "address", "add", "192.0.2.7/32", "dev", "lo").CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		listener, err := net.Listen("tcp", ":7001")
		if err != nil {
			return err
		}
		defer listener.Close()
		if err := want(0, "before a client"); err != nil {
			return err
		}
		local, err := net.Dial("tcp", "127.0.0.1:7001")
		if err != nil {
			return err
		}
		defer local.Close()
		if err := want(0, "with one over loopback"); err != nil {
			return err
		}
		for range 3 {
			conn, err := net.Dial("tcp", "192.0.2.7:7001")
			if err != nil {
				return err
			}
			defer conn.Close()
		}
		if err := want(3, "with three"); err != nil {
			return err
		}
		conn, err := net.Dial("tcp", "192.0.2.7:7001")
		if err != nil {
			return err
		}
		conn.Close()
		return want(3, "after one more was closed")
	})
}
