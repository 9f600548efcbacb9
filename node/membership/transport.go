package membership

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	// packetQueue bounds packets that memberlist has not taken yet; more are
	// dropped, as the kernel would. It takes them in microseconds.
	packetQueue = 256
	// streamQueue bounds accepted streams that memberlist has not taken yet; more
	// are closed.
	streamQueue = 64
	// packetBytes is more than memberlist ever sends in a packet (1,400), in case a
	// later version sends more.
	packetBytes = 8 << 10
	// bindAttempts bounds the search for a port that is free for streams and packets.
	bindAttempts = 16
	// acceptPause keeps a listener that fails (out of file descriptors) from spinning.
	acceptPause = 50 * time.Millisecond
)

// transport carries memberlist's packets and streams over a Network.
type transport struct {
	network Network
	streams net.Listener
	packets net.PacketConn
	ip      net.IP
	port    int

	packetCh chan *memberlist.Packet
	streamCh chan net.Conn

	ctx    context.Context
	cancel context.CancelFunc
	loops  sync.WaitGroup

	mu   sync.Mutex
	open map[*trackedConn]struct{} // nil once shut down
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

// trackedConn is a stream that Shutdown closes if nobody else has.
type trackedConn struct {
	net.Conn
	transport *transport
}

func (c *trackedConn) Close() error {
	c.transport.mu.Lock()
	delete(c.transport.open, c)
	c.transport.mu.Unlock()
	return c.Conn.Close()
}

func listen(network Network, bind string) (*transport, error) {
	host, portText, err := net.SplitHostPort(bind)
	if err != nil {
		return nil, err
	}
	t := &transport{
		network: network, packetCh: make(chan *memberlist.Packet, packetQueue), streamCh: make(chan net.Conn, streamQueue),
		open: map[*trackedConn]struct{}{},
	}
	for attempt := 1; ; attempt++ {
		if t.streams, err = network.Listen(bind); err != nil {
			return nil, fmt.Errorf("gossip streams: %w", err)
		}
		_, taken, err := net.SplitHostPort(t.streams.Addr().String())
		if err == nil {
			t.port, err = strconv.Atoi(taken)
		}
		if err == nil {
			t.packets, err = network.ListenPacket(net.JoinHostPort(host, taken))
		}
		if err == nil {
			break
		}
		err = errors.Join(fmt.Errorf("gossip packets: %w", err), t.streams.Close())
		if portText != "0" || attempt == bindAttempts {
			return nil, err
		}
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.loops.Go(t.accept)
	t.loops.Go(t.read)
	return t, nil
}

func (t *transport) accept() {
	for {
		conn, err := t.streams.Accept()
		if err != nil {
			if t.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			select {
			case <-time.After(acceptPause):
			case <-t.ctx.Done():
				return
			}
			continue
		}
		tracked, err := t.track(conn)
		if err != nil {
			return
		}
		select {
		case t.streamCh <- tracked:
		default:
			_ = tracked.Close() // the other end tries again
		}
	}
}

func (t *transport) read() {
	for {
		buffer := make([]byte, packetBytes)
		n, from, err := t.packets.ReadFrom(buffer)
		if err != nil {
			if t.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			select {
			case <-time.After(acceptPause):
			case <-t.ctx.Done():
				return
			}
			continue
		}
		if n == 0 {
			continue
		}
		select {
		case t.packetCh <- &memberlist.Packet{Buf: buffer[:n:n], From: from, Timestamp: time.Now()}:
		default: // lost, as packets are
		}
	}
}

func (t *transport) track(conn net.Conn) (net.Conn, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open == nil {
		return nil, errors.Join(net.ErrClosed, conn.Close())
	}
	tracked := &trackedConn{conn, t}
	t.open[tracked] = struct{}{}
	return tracked, nil
}

// FinalAdvertiseAddr is what Open has found out.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) { return t.ip, t.port, nil }

func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packetCh }
func (t *transport) StreamCh() <-chan net.Conn           { return t.streamCh }

func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	var to net.Addr = hostAddr(addr)
	if parsed, err := netip.ParseAddrPort(addr); err == nil {
		to = net.UDPAddrFromAddrPort(netip.AddrPortFrom(parsed.Addr().Unmap(), parsed.Port()))
	}
	_, err := t.packets.WriteTo(b, to)
	return time.Now(), err
}

func (t *transport) WriteToAddress(b []byte, addr memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, addr.Addr)
}

func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(t.ctx, timeout)
	defer cancel()
	conn, err := t.network.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	return t.track(conn)
}

func (t *transport) DialAddressTimeout(addr memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(addr.Addr, timeout)
}

// Shutdown closes everything and waits for the loops. It may be called again.
func (t *transport) Shutdown() error {
	t.mu.Lock()
	open := t.open
	t.open = nil
	t.mu.Unlock()
	if open == nil {
		return nil
	}
	t.cancel()
	errs := []error{t.streams.Close(), t.packets.Close()}
	for conn := range open {
		_ = conn.Conn.Close() // the other end may have broken it
	}
	t.loops.Wait()
	return errors.Join(errs...)
}

// hostAddr is the address of a network that works with host names.
type hostAddr string

func (hostAddr) Network() string  { return "udp" }
func (a hostAddr) String() string { return string(a) }
