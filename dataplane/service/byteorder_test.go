package service

import (
	"bytes"
	"testing"
	"unsafe"
)

func TestByteOrderIsTheNetworks(t *testing.T) {
	for text, want := range map[string][]byte{
		"10.96.1.2:4660":       {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 96, 1, 2, 0x12, 0x34, 17, 0},
		"[2001:db8::102]:4660": {0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0x12, 0x34, 17, 0},
	} {
		f := frontend(text, UDP)
		e := toNetwork(f)
		if got := unsafe.Slice((*byte)(unsafe.Pointer(&e)), unsafe.Sizeof(e)); !bytes.Equal(got, want) {
			t.Errorf("%s: bytes %x, want %x", text, got, want)
		}
		if back := fromNetwork(e); back != f {
			t.Errorf("%s: came back as %v", text, back)
		}
	}
}

func TestLongNamesStayDistinct(t *testing.T) {
	long := string(bytes.Repeat([]byte("n"), 300))
	a, b := storedName(long+"a"), storedName(long+"b")
	if a == b || len(a) != 159 || decodeName(encodeName(long+"a")) != a {
		t.Errorf("stored as %q and %q", a, b)
	}
	if got := decodeName(encodeName("default/web:http")); got != "default/web:http" {
		t.Errorf("came back as %q", got)
	}
}
