package memnet

import (
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	// packetQueue bounds the packets that wait to be read; more are lost, as
	// in a full socket buffer.
	packetQueue = 1024
	// maxPacket is the largest UDP payload over IPv4.
	maxPacket = 65507
)

type packet struct {
	from Addr
	data []byte
}

// packetConn takes and sends packets. Nothing tells a sender of a loss.
type packetConn struct {
	host *Host
	addr Addr
	wake *sync.Cond

	// guarded by host.net.mu
	queue  []packet
	read   deadline
	closed bool
}

func (p *packetConn) LocalAddr() net.Addr { return p.addr }

func (p *packetConn) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "udp", Source: p.addr, Err: err}
}

// ReadFrom reads one packet; what does not fit into b is lost.
func (p *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	p.host.net.mu.Lock()
	defer p.host.net.mu.Unlock()
	for {
		switch {
		case p.closed:
			return 0, nil, p.fail("read", net.ErrClosed)
		case p.read.passed():
			return 0, nil, p.fail("read", os.ErrDeadlineExceeded)
		case len(p.queue) > 0:
			k := p.queue[0]
			p.queue = p.queue[1:]
			return copy(b, k.data), k.from, nil
		}
		p.wake.Wait()
	}
}

// WriteTo sends one packet. It never waits.
func (p *packetConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	n := p.host.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if p.closed {
		return 0, p.fail("write", net.ErrClosed)
	}
	if len(b) > maxPacket {
		return 0, p.fail("write", syscall.EMSGSIZE)
	}
	to, err := p.host.resolveLocked("udp", addr.String())
	if err != nil {
		return 0, p.fail("write", err)
	}
	if n.cutLocked(p.addr.host, to.host) {
		return len(b), nil
	}
	if drop := n.conditionsLocked(p.addr.host, to.host).Drop; drop > 0 && n.rng.Float64() < drop {
		return len(b), nil
	}
	k := packet{from: p.addr, data: append([]byte(nil), b...)}
	if d := n.delayLocked(p.addr.host, to.host); d > 0 {
		time.AfterFunc(d, func() { n.mu.Lock(); defer n.mu.Unlock(); n.deliverLocked(to, k) })
	} else {
		n.deliverLocked(to, k)
	}
	return len(b), nil
}

func (n *Network) deliverLocked(to Addr, k packet) {
	h := n.hosts[to.host]
	if h == nil || n.cutLocked(k.from.host, to.host) {
		return
	}
	if p := h.packets[to.port]; p != nil && len(p.queue) < packetQueue {
		p.queue = append(p.queue, k)
		p.wake.Signal()
	}
}

func (p *packetConn) SetDeadline(t time.Time) error { return p.SetReadDeadline(t) }

func (p *packetConn) SetReadDeadline(t time.Time) error {
	p.host.net.mu.Lock()
	defer p.host.net.mu.Unlock()
	if p.closed {
		return p.fail("set", net.ErrClosed)
	}
	p.read.wake = p.wake
	p.read.setLocked(t)
	return nil
}

// SetWriteDeadline does nothing: a write never waits.
func (p *packetConn) SetWriteDeadline(time.Time) error { return nil }

func (p *packetConn) Close() error {
	p.host.net.mu.Lock()
	defer p.host.net.mu.Unlock()
	if p.closed {
		return p.fail("close", net.ErrClosed)
	}
	p.closeLocked()
	return nil
}

func (p *packetConn) closeLocked() {
	p.closed = true
	p.read.wake = p.wake
	p.read.setLocked(time.Time{})
	p.queue = nil
	delete(p.host.packets, p.addr.port)
}
