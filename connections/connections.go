// Package connections limits the open connections of an HTTP server, and ends streams whose clients have left. It decides which
// connections are closed when there are too many; it neither accepts connections nor authenticates clients, which the server does.
package connections

import (
	"container/list"
	"context"
	"net"
	"net/http"
	"sync"

	"golang.org/x/sys/unix"
)

// Default is the limit for a server of a whole cluster: half of the files that the process may open, since other parts need some,
// and no more than fit in memory.
func Default() int {
	const maximum = 10000
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur/2 > maximum {
		return maximum
	}
	return int(limit.Cur / 2)
}

// connections are the server's open connections. When there are too many, one is closed for each new one: the oldest that has not
// been authenticated, else the one that has been idle for longest. A connection with a request under way is not closed.
type connections struct {
	limit int

	mu  sync.Mutex
	all map[net.Conn]*connection
	// strangers have not been authenticated; idle have, and have no request under way. Both begin with the oldest.
	strangers, idle list.List
}

// connection is one connection. place is its element in the list in, strangers or idle; nil if it is in neither.
type connection struct {
	of    *connections
	conn  net.Conn
	known bool
	place *list.Element
	in    *list.List
}

// Bound limits the open connections of a server, which must not run yet.
func Bound(server *http.Server, limit int) {
	cs := &connections{limit: limit, all: map[net.Conn]*connection{}}
	server.ConnContext, server.ConnState = cs.context, cs.changed
}

// context implements http.Server's ConnContext, which is the first call for a connection.
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

// evict closes the least needed connection, if one may be closed.
func (cs *connections) evict() {
	for _, from := range []*list.List{&cs.strangers, &cs.idle} {
		if front := from.Front(); front != nil {
			c := front.Value.(*connection)
			c.move(nil)
			delete(cs.all, c.conn)
			go c.conn.Close() // sends TLS' closing message, for which it may wait
			return
		}
	}
}

// move moves a connection to the end of a list, or to none. The caller holds mu.
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
