package memnet

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// streamBuffer bounds the bytes of one direction of a connection that were
// written and not yet read, like the kernel's two socket buffers: a writer
// waits when it is full.
const streamBuffer = 256 << 10

// Conn is one end of a stream connection.
type Conn struct {
	net           *Network
	local, remote Addr
	in, out       *stream
	read, write   deadline

	// guarded by net.mu
	closed bool // by this end
	broken bool // by a reset
}

// stream is one direction of a connection: bytes, then perhaps an end.
type stream struct {
	net      *Network
	from, to Addr
	reader   *Conn
	writer   *Conn
	readable *sync.Cond
	writable *sync.Cond

	// guarded by net.mu
	flying  []segment // in flight, in order
	arrived []byte
	size    int // bytes in flight and arrived
	lastDue time.Time
	ended   bool // the writer's end has arrived
	timer   *time.Timer
}

type segment struct {
	data  []byte
	due   time.Time
	end   bool
	reset bool
}

func newPair(n *Network, a, b Addr) (*Conn, *Conn) {
	ab := &stream{net: n, from: a, to: b, readable: sync.NewCond(&n.mu), writable: sync.NewCond(&n.mu)}
	ba := &stream{net: n, from: b, to: a, readable: sync.NewCond(&n.mu), writable: sync.NewCond(&n.mu)}
	ca := &Conn{net: n, local: a, remote: b, in: ba, out: ab}
	cb := &Conn{net: n, local: b, remote: a, in: ab, out: ba}
	ab.writer, ab.reader, ba.writer, ba.reader = ca, cb, cb, ca
	for _, c := range []*Conn{ca, cb} {
		c.read.wake, c.write.wake = c.in.readable, c.out.writable
		n.conns[c] = struct{}{}
	}
	return ca, cb
}

// LocalAddr is this end's address.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr is the other end's address.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

func (c *Conn) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

// Read returns what has arrived; io.EOF after the other end closed.
func (c *Conn) Read(p []byte) (int, error) {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, c.fail("read", net.ErrClosed)
		case c.broken:
			return 0, c.fail("read", syscall.ECONNRESET)
		case c.read.passed():
			return 0, c.fail("read", os.ErrDeadlineExceeded)
		case len(p) == 0:
			return 0, nil
		case len(c.in.arrived) > 0:
			n := copy(p, c.in.arrived)
			c.in.arrived = c.in.arrived[n:]
			if len(c.in.arrived) == 0 {
				c.in.arrived = nil
			}
			c.in.size -= n
			c.in.writable.Broadcast()
			return n, nil
		case c.in.ended:
			return 0, io.EOF
		}
		c.in.readable.Wait()
	}
}

// Write waits while the buffer towards the other end is full.
func (c *Conn) Write(p []byte) (int, error) {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	written := 0
	for {
		switch {
		case c.closed:
			return written, c.fail("write", net.ErrClosed)
		case c.broken:
			return written, c.fail("write", syscall.ECONNRESET)
		case c.write.passed():
			return written, c.fail("write", os.ErrDeadlineExceeded)
		case c.in.ended: // the other end is closed altogether: nobody will read this
			return written, c.fail("write", syscall.EPIPE)
		case written == len(p):
			return written, nil
		}
		if room := streamBuffer - c.out.size; room > 0 {
			n := min(room, len(p)-written)
			c.out.sendLocked(segment{data: append([]byte(nil), p[written:written+n]...)})
			written += n
			continue
		}
		c.out.writable.Wait()
	}
}

// Close ends both directions; the other end reads what was sent before, then
// io.EOF, and can no longer write.
func (c *Conn) Close() error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	if c.closed {
		return c.fail("close", net.ErrClosed)
	}
	if !c.broken {
		c.out.sendLocked(segment{end: true})
	}
	c.closed = true
	c.doneLocked()
	return nil
}

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline bounds reads, also those that wait already.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadline(&c.read, t) }

// SetWriteDeadline bounds writes, also those that wait already.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(&c.write, t) }

func (c *Conn) setDeadline(d *deadline, t time.Time) error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	if c.closed {
		return c.fail("set", net.ErrClosed)
	}
	d.setLocked(t)
	return nil
}

// resetLocked breaks this end.
func (c *Conn) resetLocked() {
	c.broken = true
	c.doneLocked()
}

func (c *Conn) doneLocked() {
	c.read.setLocked(time.Time{})
	c.write.setLocked(time.Time{})
	delete(c.net.conns, c)
	c.in.flying, c.in.arrived, c.in.size = nil, nil, 0
	c.in.readable.Broadcast()
	c.in.writable.Broadcast()
	c.out.writable.Broadcast()
}

func (s *stream) sendLocked(g segment) {
	if s.reader.closed || s.reader.broken {
		// What reaches an end that is gone is answered with a reset, once the
		// way there and back is open.
		if !g.reset && !g.end && !s.net.cutLocked(s.from.host, s.to.host) && !s.net.cutLocked(s.to.host, s.from.host) {
			s.writer.resetLocked()
		}
		return
	}
	g.due = time.Now().Add(s.net.delayLocked(s.from.host, s.to.host))
	if g.due.Before(s.lastDue) {
		g.due = s.lastDue
	}
	s.lastDue = g.due
	s.size += len(g.data)
	s.flying = append(s.flying, g)
	s.arriveLocked()
}

// sendResetLocked tells the reader that the writer is gone; what is in flight
// is lost.
func (s *stream) sendResetLocked() {
	s.flying = nil
	s.sendLocked(segment{reset: true})
}

// arriveLocked delivers what is due, if the link is not cut.
func (s *stream) arriveLocked() {
	if s.net.cutLocked(s.from.host, s.to.host) {
		return
	}
	now := time.Now()
	for len(s.flying) > 0 {
		g := s.flying[0]
		if wait := g.due.Sub(now); wait > 0 {
			if s.timer == nil {
				s.timer = time.AfterFunc(wait, s.tick)
			} else {
				s.timer.Reset(wait)
			}
			return
		}
		s.flying = s.flying[1:]
		switch {
		case g.reset:
			s.reader.resetLocked()
		case g.end:
			s.ended = true
			s.readable.Broadcast()
			s.reader.out.writable.Broadcast()
		default:
			s.arrived = append(s.arrived, g.data...)
			s.readable.Signal()
		}
	}
}

func (s *stream) tick() {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	s.arriveLocked()
}

// deadline wakes those who wait on a condition when its time has come.
type deadline struct {
	wake  *sync.Cond
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (d *deadline) setLocked(t time.Time) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.at = t
	if !t.IsZero() {
		if left := time.Until(t); left > 0 {
			wake := d.wake // of its own: the next deadline may be set meanwhile
			d.timer = time.AfterFunc(left, func() { wake.L.Lock(); defer wake.L.Unlock(); wake.Broadcast() })
		}
	}
	d.wake.Broadcast()
}
