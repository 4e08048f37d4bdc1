package cluster

import (
	"net"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// reflector sends UDP datagrams from port 9 to port 9 back where they came from,
// by XDP_TX, with addresses swapped and checksums as they are.
func reflector() asm.Instructions {
	swap := func(a, b int16, size asm.Size) asm.Instructions {
		return asm.Instructions{
			asm.LoadMem(asm.R4, asm.R2, a, size), asm.LoadMem(asm.R5, asm.R2, b, size),
			asm.StoreMem(asm.R2, a, asm.R5, size), asm.StoreMem(asm.R2, b, asm.R4, size),
		}
	}
	program := asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, 0, asm.Word), // data
		asm.LoadMem(asm.R3, asm.R1, 4, asm.Word), // data_end
		asm.Mov.Reg(asm.R4, asm.R2),
		asm.Add.Imm(asm.R4, 42),
		asm.JGT.Reg(asm.R4, asm.R3, "pass"),
		asm.LoadMem(asm.R4, asm.R2, 12, asm.Half),
		asm.JNE.Imm(asm.R4, 0x0008, "pass"), // IPv4, as a little-endian load reads it
		asm.LoadMem(asm.R4, asm.R2, 23, asm.Byte),
		asm.JNE.Imm(asm.R4, unix.IPPROTO_UDP, "pass"),
		asm.LoadMem(asm.R4, asm.R2, 34, asm.Word),
		asm.JNE.Imm(asm.R4, 0x09000900, "pass"), // both ports 9
	}
	program = append(program, swap(0, 6, asm.Word)...) // hardware addresses
	program = append(program, swap(4, 10, asm.Half)...)
	program = append(program, swap(26, 30, asm.Word)...) // IP addresses: the checksums stay right
	return append(program,
		asm.Mov.Imm(asm.R0, 3), asm.Return(), // XDP_TX
		asm.Mov.Imm(asm.R0, xdpPass).WithSymbol("pass"), asm.Return(),
	)
}

// What a host's XDP program transmits must reach the other hosts, whole.
func TestFabricTakesXDPTransmit(t *testing.T) {
	c := hosts(t, 2)
	one, two := node(t, c, "node1"), node(t, c, "node2")
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, Instructions: reflector(), License: "GPL"})
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	err = two.InNetwork(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		attached, err := link.AttachXDP(link.XDPOptions{Program: program, Interface: eth0.Attrs().Index, Flags: link.XDPDriverMode})
		if err == nil {
			t.Cleanup(func() { attached.Close() })
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var conn *net.UDPConn
	if err := one.InNetwork(func() (err error) {
		conn, err = net.DialUDP("udp4", &net.UDPAddr{Port: 9}, &net.UDPAddr{IP: two.Addr.AsSlice(), Port: 9})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("there and back")); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	n, err := conn.Read(buf)
	if err != nil || string(buf[:n]) != "there and back" {
		t.Errorf("got %q, %v: the frame was lost or its checksum broken", buf[:n], err)
	}
}
