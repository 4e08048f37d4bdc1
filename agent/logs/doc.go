// Package logs stores the output of containers and lets clients read it.
//
// It owns the FIFOs that are containers' standard output and error, the process that reads them (it outlives the agent), the
// log files in CRI's format and their rotation. It never starts, stops or inspects containers.
//
//	shim -> FIFO -> Writer (process "skep-agent logs") -> PATH, PATH.1, PATH.2 -> Read
//	agent: Logs -- commands over a unix socket --> Writer
package logs
