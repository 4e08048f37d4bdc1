// Package sockets closes the sockets that are still connected to removed backends.
//
// A connection through a service is a plain connection to a backend, so nothing
// on its way can report to the client that the backend was removed: a connected
// UDP socket would send without an answer for ever, a TCP socket until its
// retransmissions end. This package finds those sockets, in the host's network
// namespace and in every pod's, and closes them, so that the client's next call
// fails (ECONNABORTED; a UDP send EDESTADDRREQ) and it connects anew.
//
// It closes a socket only if it is connected to exactly the departed endpoint,
// by way of a service, and the service that the socket asked for no longer leads
// there. It never closes unconnected sockets, sockets that asked for the
// backend's own address, or those of a service that still has the backend. It
// decides nothing about services: package service reports departures, and its
// maps say where each service leads.
package sockets

import "runtime"

// The main thread never enters another namespace: /proc/self/ns is its.
func init() { runtime.LockOSThread() }
