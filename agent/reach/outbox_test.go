package reach

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	skepv1 "github.com/skep-io/skep/api/v1"
)

// post is an outbox whose packets are counted by receiver.
func post(nodes int) (o *outbox, packets map[netip.Addr]int) {
	packets = map[netip.Addr]int{}
	o = newOutbox(testKey, "node0", func(data []byte, to netip.AddrPort) { packets[to.Addr()]++ })
	addrs := map[string]netip.Addr{}
	for i := range nodes {
		addrs[fmt.Sprint("node", i)] = netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
	}
	o.setNodes(addrs)
	return o, packets
}

func signed(witness, subject string) []skepv1.Statement {
	return []skepv1.Statement{{Witness: witness, Subject: subject, Signature: make([]byte, 64)}}
}

// sendAll sends until nothing is left, and returns how long that takes.
func (o *outbox) sendAll() time.Duration {
	now := time.Unix(1000, 0)
	for begin := now; ; {
		next, more := o.send(now)
		if !more {
			return now.Sub(begin)
		}
		now = next
	}
}

func TestEveryStatementIsSentThreeTimes(t *testing.T) {
	o, packets := post(10)
	o.tell([]string{"node3", "node4"}, signed("node0", "node5"))
	o.everyone(signed("node0", "node5"))
	o.everyone(signed("node1", "node5")) // in the same packets
	o.sendAll()
	for name, addr := range o.nodes {
		want := copies
		switch name {
		case "node0":
			want = 0
		case "node3", "node4":
			want = 2 * copies
		}
		if packets[addr] != want {
			t.Errorf("%s has got %d packets, want %d", name, packets[addr], want)
		}
	}
	if o.pending != 0 || len(o.parcels) != 0 {
		t.Errorf("%d statements and %d parcels are left", o.pending, len(o.parcels))
	}
}

// However many statements there are, the packets of a second are bounded, and so is what waits.
func TestPacketsAreBounded(t *testing.T) {
	const nodes = 5000
	o, packets := post(nodes)
	for i := range 5000 {
		o.everyone(signed(fmt.Sprint("node", i), "node5"))
		if i%100 == 0 {
			o.send(time.Unix(1000, 0).Add(time.Duration(i) * time.Millisecond))
		}
	}
	if o.pending > mostPending {
		t.Errorf("%d statements wait", o.pending)
	}
	took := o.sendAll()
	passes := packets[o.nodes["node7"]]
	if passes == 0 || took > time.Minute {
		t.Errorf("%d packets to a node in %s", passes, took)
	}
	o, _ = post(nodes)
	o.everyone(signed("node0", "node5"))
	begin := time.Unix(2000, 0)
	if next, _ := o.send(begin); next.Sub(begin) < nodes*time.Second/mostPackets {
		t.Errorf("the second copy goes out after %s: more than %d packets a second", next.Sub(begin), mostPackets)
	}
}

func TestSequencesGrowWhateverTheClockSays(t *testing.T) {
	dir := t.TempDir()
	now := time.Unix(1_800_000_000, 0)
	var last uint64
	var key string
	for start, at := range []time.Time{now, now.Add(time.Hour), now.Add(-24 * time.Hour), time.Unix(5, 0), now} {
		a, err := openAuthor("n", dir, at)
		if err != nil {
			t.Fatal(err)
		}
		if start > 0 && a.public() != key {
			t.Error("the key is another after a restart")
		}
		key = a.public()
		for range 3 {
			s, err := a.state(finding{"m", false, at}, at)
			if err != nil {
				t.Fatal(err)
			}
			if s.Sequence <= last {
				t.Fatalf("start %d: sequence %d after %d", start, s.Sequence, last)
			}
			last = s.Sequence
		}
	}
	for _, name := range []string{"witness-key", "witness-start"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}
