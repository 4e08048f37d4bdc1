// Package connections bounds the connections that an HTTP server keeps, and ends streams whose clients have gone. It decides which
// connections are closed when there are too many; it neither accepts them nor knows who its clients are, which the server says.
package connections

import (
	"container/list"
	"context"
	"net"
	"net/http"
	"sync"

	"golang.org/x/sys/unix"
)

// Default is how many connections a server of a whole cluster keeps: half of the files that the process may open, since others
// need some, and no more than what fits in memory.
func Default() int {
	const most = 10000
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur/2 > most {
		return most
	}
	return int(limit.Cur / 2)
}

// connections are those that the server keeps. When there are too many, one goes for each that comes: the oldest that has not
// shown a certificate, else the one that has been idle for longest. Who works is not cut off.
type connections struct {
	limit int

	mu  sync.Mutex
	all map[net.Conn]*connection
	// strangers have not been authenticated; idle have, and have no request. Both begin with the oldest.
	strangers, idle list.List
}

// connection is one of them. place is its element in strangers or idle, which in says, or nil.
type connection struct {
	of    *connections
	conn  net.Conn
	known bool
	place *list.Element
	in    *list.List
}

// Bound has a server, which does not run yet, keep at most limit connections.
func Bound(server *http.Server, limit int) {
	cs := &connections{limit: limit, all: map[net.Conn]*connection{}}
	server.ConnContext, server.ConnState = cs.context, cs.changed
}

// context implements http.Server's ConnContext, which is called first of all for a connection.
func (cs *connections) context(ctx context.Context, conn net.Conn) context.Context {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if len(cs.all) >= cs.limit {
		cs.evict()
	}
	c := &connection{of: cs, conn: conn}
	cs.all[conn] = c
	c.move(&cs.strangers)
	return context.WithValue(ctx, connectionKey{}, c)
}

// changed implements http.Server's ConnState.
func (cs *connections) changed(conn net.Conn, state http.ConnState) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	c := cs.all[conn]
	switch {
	case c == nil: // evicted
	case state == http.StateClosed || state == http.StateHijacked:
		c.move(nil)
		delete(cs.all, conn)
	case c.known && state == http.StateIdle:
		c.move(&cs.idle)
	case c.known:
		c.move(nil)
	}
}

// evict closes the connection that can be missed most, if there is one.
func (cs *connections) evict() {
	for _, from := range []*list.List{&cs.strangers, &cs.idle} {
		if front := from.Front(); front != nil {
			c := front.Value.(*connection)
			c.move(nil)
			delete(cs.all, c.conn)
			go c.conn.Close() // says goodbye in TLS, for which it may wait
			return
		}
	}
}

// move puts a connection at the end of a list, or in none. The caller holds mu.
func (c *connection) move(to *list.List) {
	if c.place != nil {
		c.in.Remove(c.place)
		c.place = nil
	}
	if to != nil {
		c.place, c.in = to.PushBack(c), to
	}
}

type connectionKey struct{}

// MarkKnown says that the request with this context, and so its connection, was authenticated.
func MarkKnown(ctx context.Context) {
	c, _ := ctx.Value(connectionKey{}).(*connection)
	if c == nil {
		return
	}
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	if !c.known {
		c.known = true
		c.move(nil)
	}
}
