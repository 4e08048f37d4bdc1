// Command echo is the program of the image skep/echo: a server that says which
// pod on which host answers, and a client that counts the answers. The demo,
// the tests and the examples run it; it uses nothing of Skep that other programs in
// a pod do not have.
//
//	echo [serve]        HTTP on :8080, plain TCP and UDP on :7000
//	echo client NAME    connect to a service N times and print who answered
//	echo idle           wait for a signal; something to exec into
//	echo lookup NAME    what DNS says; --srv, --ptr
//	echo resolve NAME   look a name up again and again, and count what takes too long
//	echo hold HOST:PORT keep one connection, and say when it is lost
//	echo post URL BODY  send a body by HTTP
//	echo cat FILE       print files
//	echo env            print the environment
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "echo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	command := "serve"
	if len(args) > 0 {
		command, args = args[0], args[1:]
	}
	switch command {
	case "serve":
		return serve(ctx, args)
	case "client":
		return runClient(ctx, args, os.Stdout)
	case "idle":
		<-ctx.Done()
		return nil
	case "lookup":
		return runLookup(ctx, args, os.Stdout)
	case "resolve":
		return runResolve(ctx, args, os.Stdout)
	case "hold":
		return runHold(ctx, args, os.Stdout)
	case "post":
		return runPost(args, os.Stdout)
	case "cat":
		return runCat(args, os.Stdout)
	case "env":
		fmt.Println(strings.Join(os.Environ(), "\n"))
		return nil
	}
	return fmt.Errorf("unknown command %q: want serve, client, idle, lookup, resolve, hold, post, cat or env", command)
}

// identity is what the answers name.
type identity struct{ Pod, Node, IP string }

func self() identity {
	id := identity{Pod: os.Getenv("POD_NAME"), Node: os.Getenv("NODE_NAME"), IP: os.Getenv("POD_IP")}
	if id.Pod == "" {
		id.Pod, _ = os.Hostname()
	}
	return id
}

func (id identity) String() string { return id.Pod + " " + id.Node + " " + id.IP }
