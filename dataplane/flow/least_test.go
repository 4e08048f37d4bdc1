package flow

import (
	"bufio"
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/skep-io/skep/dataplane/podpath/fabrictest"
	"github.com/skep-io/skep/dataplane/service"
)

// serveName answers every connection to the pod with its name, and closes it when the client has, or on a receive from end.
func serveName(t *testing.T, pod *fabrictest.Pod, end <-chan struct{}) {
	t.Helper()
	for _, addr := range pod.Addrs {
		var listener net.Listener
		pod.Do(func() (err error) {
			listener, err = net.Listen("tcp", netip.AddrPortFrom(addr, 8080).String())
			return err
		})
		t.Cleanup(func() { listener.Close() })
		go func() {
			for {
				c, err := listener.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					io.WriteString(c, pod.ID+"\n")
					read := make(chan struct{})
					go func() { defer close(read); io.Copy(io.Discard, c) }()
					select {
					case <-read:
					case <-end:
						c.(*net.TCPConn).SetLinger(0)
					}
				}()
			}
		}()
	}
}

// caller opens connections from outside and keeps them by the pod that answered.
type caller struct {
	t    *testing.T
	w    *world
	to   netip.AddrPort
	open map[string][]net.Conn
}

func (c *caller) dial() (pod string) {
	c.t.Helper()
	conn := dial(c.t, c.w.Outside, "tcp", c.to)
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		c.t.Fatal(err)
	}
	pod = line[:len(line)-1]
	c.open[pod] = append(c.open[pod], conn)
	return pod
}

// end closes all connections to a pod and waits until it has closed them, too.
func (c *caller) end(pod string) {
	c.t.Helper()
	for _, conn := range c.open[pod] {
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			c.t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
			c.t.Errorf("read from %s: %v, want the end", pod, err)
		}
		conn.Close()
	}
	delete(c.open, pod)
}

// weights are the counts in a host's maps for each pod.
func (w *world) weights(host int, pods ...*fabrictest.Pod) map[string]int32 {
	w.t.Helper()
	dump, err := w.Hosts[host].Plane.Dump()
	if err != nil {
		w.t.Fatal(err)
	}
	weights := map[string]int32{}
	for _, b := range dump.Backends {
		for _, pod := range pods {
			for _, addr := range pod.Addrs {
				if b.Address.Addr() == addr {
					weights[pod.ID] += b.Weight
				}
			}
		}
	}
	return weights
}

func (w *world) wantWeights(host int, want map[string]int32, pods ...*fabrictest.Pod) {
	w.t.Helper()
	got := w.weights(host, pods...)
	for pod, n := range want {
		if got[pod] != n {
			w.t.Errorf("%s has weight %d on host %d, want %d (all: %v)", pod, got[pod], host, n, got)
		}
	}
}

// Connections from outside count as much as those of the node's own sockets: a backend with long ones gets fewer new ones.
func TestLeastConnectionsFromOutside(t *testing.T) {
	w := newWorld(t, 2)
	pods := []*fabrictest.Pod{w.Hosts[0].NewPod("here"), w.Hosts[0].NewPod("beside"), w.Hosts[1].NewPod("elsewhere")}
	end := make(chan struct{}) // one receiver is one connection
	for _, pod := range pods[1:] {
		serveName(t, pod, nil)
	}
	serveName(t, pods[0], end)
	s := nodePort("t/tcp", service.TCP, 30080, pods...)
	s.Selection = service.LeastConnections
	w.SetService(s)
	for _, asked := range fabrictest.NodeIPs(0) {
		c := &caller{t, w, netip.AddrPortFrom(asked, 30080), map[string][]net.Conn{}}
		for range 9 {
			c.dial()
		}
		w.wantWeights(0, map[string]int32{"here": 3, "beside": 3, "elsewhere": 3}, pods...)
		w.wantWeights(1, map[string]int32{"here": 0, "beside": 0, "elsewhere": 3}, pods...)
		for _, idle := range []string{"beside", "elsewhere"} {
			c.end(idle)
			w.wantWeights(0, map[string]int32{idle: 0}, pods...)
			for i := range 3 {
				if got := c.dial(); got != idle {
					t.Errorf("connection %d went to %s, not to the idle %s", i, got, idle)
				}
			}
		}
		// The backend closes its connections, and its node sees that.
		for range c.open["here"] {
			end <- struct{}{}
		}
		for _, conn := range c.open["here"] {
			if _, err := conn.Read(make([]byte, 1)); err == nil || err == io.EOF {
				t.Errorf("read: %v, want a reset", err)
			}
		}
		w.wantWeights(0, map[string]int32{"here": 0, "beside": 3, "elsewhere": 3}, pods...)
		c.end("beside")
		c.end("elsewhere")
		w.wantWeights(0, map[string]int32{"here": 0, "beside": 0, "elsewhere": 0}, pods...)
		w.wantWeights(1, map[string]int32{"elsewhere": 0}, pods...)
	}
}
