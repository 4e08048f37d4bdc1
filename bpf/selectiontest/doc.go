// Package selectiontest holds a program that runs the selection of package bpf
// under BPF_PROG_TEST_RUN, for tests and benchmarks. Nothing else imports it,
// and it is never attached to anything.
package selectiontest

//go:generate go tool bpf2go -go-package selectiontest -target bpfel -cc clang -cflags "-O2 -mcpu=v3 -Wall -Wextra -Werror -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu" -type selection Selection selection.c
