// Package logs keeps what containers write and gives it to readers.
//
// It owns the FIFOs that are containers' standard output and error, the process that reads them (it outlives the agent), the
// log files in CRI's format and their rotation. It never starts, stops or looks at containers.
//
//	shim -> FIFO -> Writer (process "skep-agent logs") -> PATH, PATH.1, PATH.2 -> Read
//	agent: Logs -- commands over a unix socket --> Writer
package logs
