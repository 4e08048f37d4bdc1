package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"sort"
	"strings"
	"time"
)

// client makes connections to a service and prints which pod answered.
type client struct {
	protocol string
	address  string
	timeout  time.Duration
	out      io.Writer
	tally    map[string]int
	failures int
}

func runClient(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("client", flag.ContinueOnError)
	port := flags.String("port", "7000", "port of the service")
	protocol := flags.String("protocol", "tcp", "tcp or udp")
	count := flags.Int("count", 30, "number of connections, one after another")
	timeout := flags.Duration("timeout", time.Second, "patience for one connection and its answer")
	quiet := flags.Bool("quiet", false, "print the tally only")
	forever := flags.Bool("continuous", false, "go on until a signal; print failures and changes as they happen, with the time")
	untilStdin := flags.Bool("until-stdin-ends", false, "with --continuous, end also when standard input does")
	interval := flags.Duration("interval", 10*time.Millisecond, "pause between connections with --continuous")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return errors.New("want the service's name: echo client [flags] NAME")
	}
	addr, err := lookUp(ctx, flags.Arg(0), *timeout, out)
	if err != nil {
		return err
	}
	c := &client{
		protocol: *protocol, address: net.JoinHostPort(addr, *port),
		timeout: *timeout, out: out, tally: map[string]int{},
	}
	if *forever {
		if *untilStdin {
			ctx = untilEnd(ctx, os.Stdin)
		}
		c.watch(ctx, *interval)
		return nil
	}
	for i := 1; i <= *count && ctx.Err() == nil; i++ {
		who, err := c.ask(ctx)
		if err != nil {
			c.failures++
			fmt.Fprintf(out, "%3d  failed: %v\n", i, err)
			continue
		}
		c.tally[who]++
		if !*quiet {
			fmt.Fprintf(out, "%3d  %s\n", i, who)
		}
	}
	return c.summary()
}

// untilEnd is cancelled when the input ends, as it does with the exec session that holds it.
func untilEnd(ctx context.Context, in io.Reader) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, in)
	}()
	return ctx
}

// lookUp resolves the name through the pod's resolver, search list included.
// It asks again for a while when answers are late or lost: a fault of the demo may
// disturb DNS itself.
func lookUp(ctx context.Context, name string, timeout time.Duration, out io.Writer) (string, error) {
	if net.ParseIP(name) != nil {
		return name, nil
	}
	begin := time.Now()
	deadline := begin.Add(10 * timeout)
	for {
		try, cancel := context.WithTimeout(ctx, timeout)
		addrs, err := net.DefaultResolver.LookupHost(try, name)
		cancel()
		if err == nil {
			fmt.Fprintf(out, "%s is %s (looked up in %.1f ms)\n", name, strings.Join(addrs, ", "), time.Since(begin).Seconds()*1000)
			return addrs[0], nil
		}
		var dns *net.DNSError
		if errors.As(err, &dns) && dns.IsNotFound || time.Now().After(deadline) || ctx.Err() != nil {
			return "", err
		}
	}
}

// ask makes one connection and returns the pod, node and address that answered.
func (c *client) ask(ctx context.Context) (string, error) {
	dialer := net.Dialer{Timeout: c.timeout}
	conn, err := dialer.DialContext(ctx, c.protocol, c.address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(c.timeout)); err != nil {
		return "", err
	}
	if c.protocol == "udp" {
		if _, err := conn.Write([]byte("who")); err != nil {
			return "", err
		}
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("%s accepted, but no answer: %w", conn.RemoteAddr(), err)
	}
	return strings.TrimSpace(line), nil
}

// watch connects again and again. Each failure is a line with its time, and so
// is each first answer of a pod not seen for a second or more.
func (c *client) watch(ctx context.Context, interval time.Duration) {
	seen := map[string]time.Time{}
	total := 0
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		begin := time.Now()
		who, err := c.ask(ctx)
		switch {
		case ctx.Err() != nil:
			fmt.Fprintf(c.out, "%s done: %d connections, %d failed\n", stamp(time.Now()), total, c.failures)
			return
		case err != nil:
			total++
			c.failures++
			fmt.Fprintf(c.out, "%s failed: connection %d, begun %s: %v\n", stamp(time.Now()), total, stamp(begin), err)
		default:
			total++
			if last, ok := seen[who]; !ok || time.Since(last) > time.Second {
				fmt.Fprintf(c.out, "%s answer: %s\n", stamp(begin), who)
			}
			seen[who] = time.Now()
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
}

func stamp(t time.Time) string { return t.UTC().Format("15:04:05.000000") }

func (c *client) summary() error {
	names := make([]string, 0, len(c.tally))
	for who := range c.tally {
		names = append(names, who)
	}
	sort.Strings(names)
	counts := make([]string, 0, len(names))
	for _, who := range names {
		fmt.Fprintf(c.out, "%5d  %s\n", c.tally[who], who)
		counts = append(counts, fmt.Sprint(c.tally[who]))
	}
	fmt.Fprintf(c.out, "tally %s, %d failed\n", strings.Join(counts, "/"), c.failures)
	if c.failures > 0 {
		return fmt.Errorf("%d connections failed", c.failures)
	}
	return nil
}
