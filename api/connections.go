package api

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/capstan-kv/capstan/budget"
)

// Connections bounds the connections of a node's clients. When there is no room for a
// new one, the one that has been idle for longest makes room; if none is idle, the new
// one is closed. All methods are safe for concurrent use.
type Connections struct {
	most, mostPerAddress int

	mu        sync.Mutex
	open      map[*connection]struct{}
	addresses map[string]int
	refused   uint64
	closed    uint64
}

// NewConnections bounds connections to most of all clients together, and to
// mostPerAddress of those of one address.
func NewConnections(most, mostPerAddress int) *Connections {
	return &Connections{most: most, mostPerAddress: mostPerAddress, open: map[*connection]struct{}{}, addresses: map[string]int{}}
}

// Listen counts the connections that l accepts.
func (c *Connections) Listen(l net.Listener) net.Listener { return &countedListener{l, c} }

// Use reports how many connections are open, how many are possible, how many were
// closed for a new one while they were idle, and how many new ones were refused.
func (c *Connections) Use() (open, most int, closed, refused uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open), c.most, c.closed, c.refused
}

// connection is one client's connection.
type connection struct {
	net.Conn
	of      *Connections
	address string
	idle    atomic.Int64 // since when, in Unix nanoseconds; 0: it is not
	caller  Caller
	once    sync.Once
}

// Caller is a connection's part of the budgets.
type Caller struct{ requests, answers, streams budget.Owner }

func (c *Caller) requestsOwner() *budget.Owner {
	if c == nil {
		return nil
	}
	return &c.requests
}

func (c *Caller) answersOwner() *budget.Owner {
	if c == nil {
		return nil
	}
	return &c.answers
}

func (c *Caller) streamsOwner() *budget.Owner {
	if c == nil {
		return nil
	}
	return &c.streams
}

type callerKey struct{}

// callerOf is nil where the server does not count connections.
func callerOf(ctx context.Context) *Caller {
	c, _ := ctx.Value(callerKey{}).(*Caller)
	return c
}

// connContext is for [http.Server.ConnContext].
func connContext(ctx context.Context, conn net.Conn) context.Context {
	if c, ok := conn.(*connection); ok {
		return context.WithValue(ctx, callerKey{}, &c.caller)
	}
	return ctx
}

// connState is for [http.Server.ConnState]: a connection is idle until its first
// request has been read, and between requests.
func connState(conn net.Conn, state http.ConnState) {
	c, ok := conn.(*connection)
	if !ok {
		return
	}
	switch state {
	case http.StateNew, http.StateIdle:
		c.idle.Store(time.Now().UnixNano())
	case http.StateActive, http.StateHijacked, http.StateClosed:
		c.idle.Store(0)
	}
}

// Close implements [net.Conn].
func (c *connection) Close() error {
	c.once.Do(func() { c.of.forget(c) })
	return c.Conn.Close()
}

func (c *Connections) forget(conn *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forgetLocked(conn)
}

func (c *Connections) forgetLocked(conn *connection) {
	if _, open := c.open[conn]; !open {
		return
	}
	delete(c.open, conn)
	if c.addresses[conn.address]--; c.addresses[conn.address] == 0 {
		delete(c.addresses, conn.address)
	}
}

// admit finds a place for a connection, or reports that there is none.
func (c *Connections) admit(conn net.Conn) (*connection, bool) {
	added := &connection{Conn: conn, of: c, address: hostOf(conn.RemoteAddr())}
	added.idle.Store(time.Now().UnixNano())
	c.mu.Lock()
	var victim *connection
	switch {
	case c.mostPerAddress > 0 && c.addresses[added.address] >= c.mostPerAddress:
		victim = c.idlest(func(other *connection) bool { return other.address == added.address })
	case c.most > 0 && len(c.open) >= c.most:
		victim = c.idlest(func(*connection) bool { return true })
	default:
		c.add(added)
		c.mu.Unlock()
		return added, true
	}
	if victim == nil {
		c.refused++
		c.mu.Unlock()
		return nil, false
	}
	c.closed++
	c.forgetLocked(victim)
	c.add(added)
	c.mu.Unlock()
	_ = victim.Close()
	return added, true
}

func (c *Connections) add(conn *connection) {
	c.open[conn] = struct{}{}
	c.addresses[conn.address]++
}

// idlest is the connection that has been idle for longest, at least idleForRoom: a
// younger one is about to send its request.
func (c *Connections) idlest(among func(*connection) bool) (victim *connection) {
	oldest := time.Now().Add(-idleForRoom).UnixNano()
	for conn := range c.open {
		if since := conn.idle.Load(); since != 0 && since <= oldest && among(conn) {
			victim, oldest = conn, since
		}
	}
	return victim
}

func hostOf(address net.Addr) string {
	if tcp, ok := address.(*net.TCPAddr); ok {
		return string(tcp.IP.To16())
	}
	host, _, err := net.SplitHostPort(address.String())
	if err != nil {
		return address.String()
	}
	return host
}

type countedListener struct {
	net.Listener
	connections *Connections
}

// Accept implements [net.Listener].
func (l *countedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if counted, ok := l.connections.admit(conn); ok {
			return counted, nil
		}
		_ = conn.Close()
	}
}
