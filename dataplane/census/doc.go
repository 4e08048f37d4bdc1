// Package census counts what is connected to each backend now: sockets of this
// node that asked for a service, and flows that packets made, with the
// round-trip times that TCP keeps. It counts when it is asked, by two walks in
// the kernel, so that counting costs connections nothing. It also has the kernel
// count connections of sockets that fail, and corrects the counts of least
// connections.
//
// It owns the programs that walk, the one at the kernel's error reports, which
// counts while a Census is open, and the maps skep_connected and skep_seen. It
// never attaches a program to the path of packets, closes nothing, and keeps no
// socket: user space gets sums.
package census
