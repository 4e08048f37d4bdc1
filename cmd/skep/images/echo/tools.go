package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sort"
	"strings"
	"time"
)

// runLookup prints the addresses of a name, one a line; with --srv the targets
// and ports, with --ptr the names of an address.
func runLookup(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("lookup", flag.ContinueOnError)
	srv := flags.Bool("srv", false, "SRV records of NAME")
	ptr := flags.Bool("ptr", false, "PTR records of an address")
	timeout := flags.Duration("timeout", 5*time.Second, "patience")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return errors.New("want one name: echo lookup [--srv|--ptr] NAME")
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	var answers []string
	var err error
	switch {
	case *srv:
		var records []*net.SRV
		_, records, err = net.DefaultResolver.LookupSRV(ctx, "", "", flags.Arg(0))
		for _, record := range records {
			answers = append(answers, fmt.Sprintf("%s:%d", record.Target, record.Port))
		}
	case *ptr:
		answers, err = net.DefaultResolver.LookupAddr(ctx, flags.Arg(0))
	default:
		answers, err = net.DefaultResolver.LookupHost(ctx, flags.Arg(0))
	}
	if err != nil {
		return err
	}
	sort.Strings(answers)
	fmt.Fprintln(out, strings.Join(answers, "\n"))
	return nil
}

// runPost sends a body to a URL and prints the answer.
func runPost(args []string, out io.Writer) error {
	if len(args) != 2 {
		return errors.New("want echo post URL BODY")
	}
	response, err := (&http.Client{Timeout: 5 * time.Second}).Post(args[0], "text/plain", strings.NewReader(args[1]))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	fmt.Fprintln(out, response.Status)
	_, err = io.Copy(out, response.Body)
	return err
}

func runCat(files []string, out io.Writer) error {
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if _, err := out.Write(data); err != nil {
			return err
		}
	}
	return nil
}

// runHold keeps one connection to an echo server and sends a line every 10 ms.
// It prints "held by POD" once, and a line when an answer is late or wrong, or
// the connection is lost, which ends it.
func runHold(ctx context.Context, args []string, out io.Writer) error {
	if len(args) != 1 {
		return errors.New("want echo hold HOST:PORT")
	}
	var conn net.Conn
	for conn == nil {
		dialed, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", args[0])
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			conn = dialed
		}
	}
	defer conn.Close()
	lines := bufio.NewReader(conn)
	greeting, err := lines.ReadString('\n')
	if err != nil {
		return fmt.Errorf("lost before the greeting: %w", err)
	}
	fmt.Fprintf(out, "held by %s, peer %s\n", strings.TrimSpace(greeting), conn.RemoteAddr())
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for n := 1; ; n++ {
		begin := time.Now()
		if _, err := fmt.Fprintln(conn, n); err != nil {
			return fmt.Errorf("lost at line %d: %w", n, err)
		}
		answer, err := lines.ReadString('\n')
		if err != nil {
			return fmt.Errorf("lost at line %d: %w", n, err)
		}
		if !strings.HasSuffix(answer, fmt.Sprintf(" %d\n", n)) {
			return fmt.Errorf("wrong answer to line %d: %q", n, answer)
		}
		if took := time.Since(begin); took > 500*time.Millisecond {
			fmt.Fprintf(out, "late: line %d took %s\n", n, took)
		}
		if n%100 == 0 {
			fmt.Fprintf(out, "line %d\n", n)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}
