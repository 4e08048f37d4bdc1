// Package sockets closes the sockets that are left on backends that are gone.
//
// A connection through a service is a plain connection to a backend, so nothing
// on its way can report to the client that the backend is gone: a connected UDP
// socket would send into the void for good, a TCP socket until its
// retransmissions end. This package finds those sockets, in the host's network
// namespace and in every pod's, and closes them, so that the client's next call
// fails (ECONNABORTED; a UDP send EDESTADDRREQ) and it connects anew.
//
// It closes a socket only if it is connected to exactly the departed endpoint,
// by way of a service, and nothing that the socket asked for leads there any
// more. It never touches unconnected sockets, sockets that asked for the
// backend's own address, or those of a service that still has the backend. It
// decides nothing about services: package service says who departed, and its
// maps say what leads where.
package sockets

import "runtime"

// The main thread never enters another namespace: /proc/self/ns is its.
func init() { runtime.LockOSThread() }
