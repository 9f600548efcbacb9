package chaos

import (
	"context"
	"fmt"
	"net"
)

// Network is what gossip uses of a network. One that cannot work with the
// machine's own addresses may also have IP() net.IP; it is passed on.
type Network interface {
	Listen(addr string) (net.Listener, error)
	ListenPacket(addr string) (net.PacketConn, error)
	Dial(ctx context.Context, addr string) (net.Conn, error)
}

// Gossip is the network as gossip may use it.
func (c *Cuts) Gossip(n Network) Network {
	wrapped := network{Network: n, cuts: c}
	if own, ok := n.(interface{ IP() net.IP }); ok {
		return ownAddress{wrapped, own.IP}
	}
	return wrapped
}

type ownAddress struct {
	network
	ip func() net.IP
}

func (n ownAddress) IP() net.IP { return n.ip() }

type network struct {
	Network
	cuts *Cuts
}

// Dial is the network's, and [ErrCut] across a cut.
func (n network) Dial(ctx context.Context, addr string) (net.Conn, error) {
	if n.cuts.now.Load().exact(addr) {
		return nil, fmt.Errorf("dial %s: %w", addr, ErrCut)
	}
	conn, err := n.Network.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	s := &stream{Conn: conn, cuts: n.cuts, address: addr, dialed: true}
	if !n.cuts.admit(s) {
		return nil, fmt.Errorf("dial %s: %w", addr, ErrCut)
	}
	return s, nil
}

// Listen is the network's; streams that may come across a cut are reset.
func (n network) Listen(addr string) (net.Listener, error) {
	l, err := n.Network.Listen(addr)
	if err != nil {
		return nil, err
	}
	return listener{l, n.cuts}, nil
}

// ListenPacket is the network's; packets across a cut vanish, both ways.
func (n network) ListenPacket(addr string) (net.PacketConn, error) {
	p, err := n.Network.ListenPacket(addr)
	if err != nil {
		return nil, err
	}
	return packets{p, n.cuts}, nil
}

type listener struct {
	net.Listener
	cuts *Cuts
}

func (l listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		s := &stream{Conn: conn, cuts: l.cuts, address: conn.RemoteAddr().String()}
		if l.cuts.admit(s) {
			return s, nil
		}
	}
}

type packets struct {
	net.PacketConn
	cuts *Cuts
}

func (p packets) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := p.PacketConn.ReadFrom(b)
		if err != nil || from == nil || !p.cuts.now.Load().exact(from.String()) {
			return n, from, err
		}
	}
}

func (p packets) WriteTo(b []byte, to net.Addr) (int, error) {
	if p.cuts.now.Load().exact(to.String()) {
		return len(b), nil
	}
	return p.PacketConn.WriteTo(b, to)
}

// stream is one of gossip's, while it is open.
type stream struct {
	net.Conn
	cuts    *Cuts
	address string
	dialed  bool
}

func (s *stream) across(now *state) bool {
	if s.dialed {
		return now.exact(s.address)
	}
	return now.source(s.address)
}

// admit keeps a stream to be reset when a cut is made; one across a cut that there
// is already it resets at once, and says false.
func (c *Cuts) admit(s *stream) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.across(c.now.Load()) {
		reset(s.Conn)
		return false
	}
	c.open[s] = struct{}{}
	return true
}

// Close closes the stream.
func (s *stream) Close() error {
	s.cuts.mu.Lock()
	delete(s.cuts.open, s)
	s.cuts.mu.Unlock()
	return s.Conn.Close()
}

// reset closes without sending what still waits.
func reset(conn net.Conn) {
	if tcp, ok := conn.(interface{ SetLinger(sec int) error }); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}
