package chaos

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"os"
	"strings"
	"time"

	"github.com/skep-io/skep/cmd/skep/cluster"
	"github.com/skep-io/skep/test/chaos/invariant"
)

// clientOf, if set, makes the test binary a client that connects to that service again and again, and prints each attempt as JSON.
const clientOf = "SKEP_CHAOS_CLIENT_OF"

// connectPace is the time between two connections of a host.
const connectPace = 25 * time.Millisecond

// attempt is one connection. The clock is the machine's, which all hosts share.
type attempt struct {
	Begun time.Time `json:"begun"`
	UID   string    `json:"uid,omitempty"` // of the pod that answered
	Error string    `json:"error,omitempty"`
}

// connect is the client's program.
func connect(service string) {
	out := json.NewEncoder(os.Stdout)
	for {
		a := attempt{Begun: time.Now()}
		uid, err := ask(service)
		if a.UID = uid; err != nil {
			a.Error = err.Error()
		}
		if out.Encode(a) != nil {
			return // nobody reads any more
		}
		time.Sleep(connectPace)
	}
}

func ask(service string) (uid string, err error) {
	conn, err := net.DialTimeout("tcp", service, time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return "", err
	}
	uid, _, _ = strings.Cut(line, " ")
	return uid, nil
}

// connectFrom runs the client on a host whenever that runs, and records what it prints.
func (r *run) connectFrom(ctx context.Context, host *cluster.Node, service string) {
	for ; ctx.Err() == nil; sleep(ctx, 200*time.Millisecond) {
		reader, writer, err := os.Pipe()
		if err != nil {
			r.Error(err)
			return
		}
		read := make(chan struct{})
		go func() {
			defer close(read)
			for lines := bufio.NewScanner(reader); lines.Scan(); {
				var a attempt
				if json.Unmarshal(lines.Bytes(), &a) == nil {
					r.connected(host, a)
				}
			}
		}()
		_ = host.Exec(ctx, cluster.ExecOptions{Stdout: writer, Env: []string{clientOf + "=" + service}}, os.Args[0])
		writer.Close()
		<-read
		reader.Close()
	}
}

func (r *run) connected(host *cluster.Node, a attempt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a.Error != "" {
		r.failed++
		return
	}
	r.attempts = append(r.attempts, invariant.Attempt{Host: host.Name, UID: a.UID, Begun: a.Begun})
}
