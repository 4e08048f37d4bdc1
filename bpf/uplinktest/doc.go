// Package uplinktest has a program that gives another XDP program the same packet again and again, for measuring. It is for
// tests and benchmarks only and part of no binary.
package uplinktest

//go:generate go tool bpf2go -go-package uplinktest -target bpfel -cc clang -cflags "-O2 -mcpu=v3 -Wall -Wextra -Werror -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu" -type repeated Repeat repeat.c
