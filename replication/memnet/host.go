package memnet

import (
	"context"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const (
	// firstFreePort is where port 0 begins to look, as the kernel does.
	firstFreePort = 32768
	// backlog bounds connections that nobody has accepted; more are refused.
	backlog = 128
)

// Addr is a host and a port. String is "host:port".
type Addr struct {
	network string
	host    string
	port    int
}

// Network is "tcp" or "udp".
func (a Addr) Network() string { return a.network }

func (a Addr) String() string { return net.JoinHostPort(a.host, strconv.Itoa(a.port)) }

// Host is one machine's view of the network.
type Host struct {
	net  *Network
	name string
	ip   net.IP

	// guarded by net.mu
	nextPort  int
	listeners map[int]*listener
	packets   map[int]*packetConn
}

// Name is the name that the host was made with.
func (h *Host) Name() string { return h.name }

// IP is an address of the host, for those who can not work with names: the
// name itself if it is one.
func (h *Host) IP() net.IP { return append(net.IP(nil), h.ip...) }

// Listen takes stream connections to host:port. The host part is empty, a
// loopback or unspecified address, or the host's own; port 0 takes a free one.
func (h *Host) Listen(addr string) (net.Listener, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	a, err := h.bindLocked("tcp", addr)
	if err != nil {
		return nil, err
	}
	l := &listener{host: h, addr: a, wake: sync.NewCond(&h.net.mu)}
	h.listeners[a.port] = l
	for wake := range h.net.dialing {
		wake.Broadcast()
	}
	return l, nil
}

// ListenPacket takes packets to host:port; the address is as for Listen.
func (h *Host) ListenPacket(addr string) (net.PacketConn, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	a, err := h.bindLocked("udp", addr)
	if err != nil {
		return nil, err
	}
	p := &packetConn{host: h, addr: a, wake: sync.NewCond(&h.net.mu)}
	h.packets[a.port] = p
	return p, nil
}

// Dial connects to a listener. Where nobody listens it is refused at once;
// across a cut it hangs until the cut heals or ctx ends.
func (h *Host) Dial(ctx context.Context, addr string) (net.Conn, error) {
	n := h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	to, err := h.resolveLocked("tcp", addr)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: to, Err: err}
	}
	// The handshake needs both directions, once each.
	wake := sync.NewCond(&n.mu)
	n.dialing[wake] = struct{}{}
	defer delete(n.dialing, wake)
	arrival := time.Now().Add(n.delayLocked(h.name, to.host) + n.delayLocked(to.host, h.name))
	defer context.AfterFunc(ctx, func() { n.mu.Lock(); defer n.mu.Unlock(); wake.Broadcast() })()
	var timer *time.Timer
	for {
		if err := ctx.Err(); err != nil {
			return fail(err)
		}
		left := time.Until(arrival)
		if left <= 0 && !n.cutLocked(h.name, to.host) && !n.cutLocked(to.host, h.name) {
			break
		}
		if left > 0 && timer == nil {
			timer = time.AfterFunc(left, func() { n.mu.Lock(); defer n.mu.Unlock(); wake.Broadcast() })
			defer timer.Stop()
		}
		wake.Wait()
	}
	target := n.hosts[to.host]
	if target == nil || target.listeners[to.port] == nil || len(target.listeners[to.port].queue) >= backlog {
		return fail(syscall.ECONNREFUSED)
	}
	from := Addr{network: "tcp", host: h.name, port: h.freePortLocked()}
	mine, theirs := newPair(n, from, to)
	l := target.listeners[to.port]
	l.queue = append(l.queue, theirs)
	l.wake.Signal()
	return mine, nil
}

func (h *Host) bindLocked(network, addr string) (Addr, error) {
	fail := func(err error) (Addr, error) {
		return Addr{}, &net.OpError{Op: "listen", Net: network, Err: &net.AddrError{Err: err.Error(), Addr: addr}}
	}
	a, err := h.resolveLocked(network, addr)
	if err != nil {
		return fail(err)
	}
	if a.host != h.name {
		return fail(syscall.EADDRNOTAVAIL)
	}
	if a.port == 0 {
		a.port = h.freePortLocked()
	}
	taken := h.listeners[a.port] != nil
	if network == "udp" {
		taken = h.packets[a.port] != nil
	}
	if taken {
		return fail(syscall.EADDRINUSE)
	}
	return a, nil
}

// freePortLocked is a port that is free for streams and for packets.
func (h *Host) freePortLocked() int {
	for {
		port := h.nextPort
		if h.nextPort++; h.nextPort > 65535 {
			h.nextPort = firstFreePort
		}
		if h.listeners[port] == nil && h.packets[port] == nil {
			return port
		}
	}
}

func (h *Host) resolveLocked(network, addr string) (Addr, error) {
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return Addr{}, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return Addr{}, &net.AddrError{Err: "invalid port", Addr: addr}
	}
	if ip := net.ParseIP(host); host == "" || host == "localhost" || (ip != nil && (ip.IsLoopback() || ip.IsUnspecified())) {
		host = h.name
	} else if ip != nil && h.net.byIP[ip.String()] != nil {
		host = h.net.byIP[ip.String()].name
	}
	return Addr{network: network, host: host, port: int(port)}, nil
}

type listener struct {
	host *Host
	addr Addr
	wake *sync.Cond

	// guarded by host.net.mu
	queue  []*Conn
	closed bool
}

func (l *listener) Addr() net.Addr { return l.addr }

func (l *listener) Accept() (net.Conn, error) {
	l.host.net.mu.Lock()
	defer l.host.net.mu.Unlock()
	for {
		if l.closed {
			return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.addr, Err: net.ErrClosed}
		}
		if len(l.queue) > 0 {
			c := l.queue[0]
			l.queue = l.queue[1:]
			return c, nil
		}
		l.wake.Wait()
	}
}

func (l *listener) Close() error {
	l.host.net.mu.Lock()
	defer l.host.net.mu.Unlock()
	if l.closed {
		return &net.OpError{Op: "close", Net: "tcp", Addr: l.addr, Err: net.ErrClosed}
	}
	l.closeLocked()
	return nil
}

func (l *listener) closeLocked() {
	l.closed = true
	delete(l.host.listeners, l.addr.port)
	for _, c := range l.queue {
		c.resetLocked()
		c.out.sendResetLocked()
	}
	l.queue = nil
	l.wake.Broadcast()
}
