package hurts

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/skep-io/skep/dataplane/service"
	"github.com/skep-io/skep/test/hurts/lab"
)

// track makes a namespace track connections, as any firewall on a host does, and returns how many packets it has found invalid.
func track(t *testing.T, n *lab.Namespace) (invalid func() uint64) {
	t.Helper()
	conn, err := nftables.New(nftables.WithNetNSFd(n.FD()))
	if err != nil {
		t.Fatal(err)
	}
	table := conn.AddTable(&nftables.Table{Name: "lab", Family: nftables.TableFamilyIPv4})
	chain := conn.AddChain(&nftables.Chain{
		Name: "input", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter,
	})
	rule := &nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binary.NativeEndian.AppendUint32(nil, expr.CtStateBitINVALID), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
		&expr.Counter{},
	}}
	conn.AddRule(rule)
	if err := conn.Flush(); err != nil {
		t.Fatal("track connections (nf_tables and nf_conntrack are needed): ", err)
	}
	return func() uint64 {
		t.Helper()
		rules, err := conn.GetRules(table, chain)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rules {
			for _, e := range r.Exprs {
				if counter, ok := e.(*expr.Counter); ok {
					return counter.Packets
				}
			}
		}
		t.Fatal("the counter is gone")
		return 0
	}
}

func tracked(t *testing.T, n *lab.Namespace) int {
	t.Helper()
	var count int
	err := n.Try(func() error {
		text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
		if err != nil {
			return err
		}
		count, err = strconv.Atoi(strings.TrimSpace(string(text)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return count
}

// A packet that conntrack found invalid (a late retransmission) was not translated back, and its receiver, which knew no such
// connection, reset it. Here nothing is translated: the receiver knows the sender. kubernetes 74839.
func TestNoResetByInvalidPackets(t *testing.T) {
	p := lab.Open(t, lab.Pins(t))
	pod, elsewhere := lab.NewNamespace(t), lab.NewNamespace(t)
	client, backend := netip.MustParseAddr("10.244.1.2"), netip.MustParseAddrPort("10.244.9.2:8080")
	lab.Link(t, pod, client, elsewhere, backend.Addr())
	elsewhere.Serve(t, service.TCP, backend.String())
	set(t, p, lab.Service("default/web:http", service.TCP, webService, backend.String()))
	invalidHere, invalidThere := track(t, pod), track(t, elsewhere)
	conn := pod.Dial(t, "tcp4", webService)
	if _, err := lab.ReadName(conn); err != nil {
		t.Fatal(err)
	}
	clientPort := conn.LocalAddr().(*net.TCPAddr).AddrPort()
	for i := range uint32(20) {
		elsewhere.SendTCP(t, backend, clientPort, 0x7f000000*(i%3+1)+i)
		pod.SendTCP(t, clientPort, backend, 0x7f000000*(i%3+1)+i)
		wantAnswer(t, conn, "?")
	}
	if invalidHere() == 0 || invalidThere() == 0 {
		t.Errorf("conntrack found %d and %d packets invalid: the test sent none", invalidHere(), invalidThere())
	}
}

// Each connection to a service had an entry in a table that was too small, and then the packets of all were dropped.
// kubernetes 18604.
func TestNoConntrackEntries(t *testing.T) {
	p := lab.Open(t, lab.Pins(t))
	pod := lab.NewNamespace(t)
	pod.Serve(t, service.TCP, one)
	pod.Serve(t, service.UDP, one)
	set(t, p,
		lab.Service("default/web:http", service.TCP, webService, one),
		lab.Service("default/echo:udp", service.UDP, echoService, one))
	connect := func(times int) {
		t.Helper()
		err := pod.Try(func() error {
			for range times {
				if _, err := lab.Ask("tcp4", webService); err != nil {
					return err
				}
				conn, err := net.Dial("udp4", echoService)
				if err != nil {
					return err
				}
				_, err = lab.Exchange(conn)
				conn.Close()
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	connect(1000)
	if count := tracked(t, pod); count != 0 {
		t.Errorf("2,000 connections through services left %d entries", count)
	}
	track(t, pod) // the same with a firewall: the count would have shown it
	connect(5)
	if count := tracked(t, pod); count < 10 {
		t.Errorf("conntrack counts %d of 10 connections: the test proves nothing", count)
	}
}
