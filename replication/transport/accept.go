package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/capstan-kv/capstan/partition"
)

// acceptPause is how long the listener rests after an error, such as too many
// open files.
const acceptPause = 50 * time.Millisecond

func (t *Transport) acceptLoop() {
	for {
		conn, err := t.cfg.Listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			select {
			case <-t.ctx.Done():
				return
			case <-time.After(acceptPause):
				continue
			}
		}
		if t.shaking.Add(1) > maxHandshakes || !t.spawn(func() {
			defer t.shaking.Add(-1)
			if peer, err := t.welcome(conn); err != nil {
				_ = conn.Close()
				t.cfg.Events(Refused{Peer: peer, Incoming: true, Err: err})
			}
		}) {
			t.shaking.Add(-1)
			_ = conn.Close()
		}
	}
}

func (t *Transport) hello(to partition.NodeID) Hello {
	number, incarnation := t.cfg.Start()
	return Hello{Cluster: t.cfg.Cluster(), From: t.cfg.Self, To: to, Incarnation: incarnation, Start: number}
}

// welcome does the accepting side of a handshake.
func (t *Transport) welcome(conn net.Conn) (partition.NodeID, error) {
	defer context.AfterFunc(t.ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if err := conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return "", err
	}
	g, err := readGreeting(conn)
	from := g.hello.From
	refuse := func(v verdict, err error) (partition.NodeID, error) {
		// Whoever is refused learns nothing of this node: the reason is in its own log.
		_, _ = conn.Write(greeting{version: protocolVersion, verdict: v}.encode())
		return from, err
	}
	switch {
	case errors.Is(err, ErrVersion):
		return refuse(refusedVersion, err)
	case err != nil:
		return "", err
	case g.verdict != accepted || from == "":
		return from, fmt.Errorf("%w: malformed hello", ErrProtocol)
	case g.hello.To != t.cfg.Self || from == t.cfg.Self:
		return refuse(refusedPeer, fmt.Errorf("%w: this is %s, not %s", ErrWrongPeer, t.cfg.Self, g.hello.To))
	case t.cutFrom(from):
		return from, fmt.Errorf("%w: %w", ErrUnreachable, ErrCut) // without a word, as a cable would
	}
	switch err := t.judge(g.hello); {
	case errors.Is(err, ErrPeerRemoved):
		return refuse(refusedRemoved, err)
	case errors.Is(err, ErrPeerOutdated):
		return refuse(refusedOutdated, err)
	case err != nil:
		return refuse(refusedAdmit, err)
	}
	p := t.peer(from)
	if p == nil {
		return refuse(refusedClosed, ErrClosed)
	}
	l := newLink(p, conn, g.hello, false)
	if !p.accept(l) {
		// Not a failure: this side's own dial is the one connection.
		_, _ = refuse(refusedUseMine, errUseMine)
		l.fail(errUseMine)
		return from, nil
	}
	// The link stands in its place before the answer leaves, so that no dial
	// of this side begins meanwhile; its writer starts after the answer.
	if _, err := conn.Write(greeting{version: protocolVersion, verdict: accepted, hello: t.hello(from)}.encode()); err != nil {
		l.fail(err)
		return from, err
	}
	l.start()
	return from, nil
}

// dial does the dialing side, handshake included. ctx ends it.
func (t *Transport) dial(ctx context.Context, p *peer) (*link, string, error) {
	addr, ok := t.cfg.Resolve(p.id)
	if !ok {
		return nil, "", fmt.Errorf("%w: no address of %s is known", ErrUnreachable, p.id)
	}
	if t.cutFrom(p.id) {
		return nil, addr, fmt.Errorf("%w: %w", ErrUnreachable, ErrCut)
	}
	dialCtx, cancel := context.WithTimeout(ctx, dialTimeout)
	conn, err := t.cfg.Dial(dialCtx, addr)
	cancel()
	if err != nil {
		return nil, addr, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	l, err := t.introduce(ctx, p, conn)
	if err != nil {
		_ = conn.Close()
		if errors.Is(err, ErrVersion) || errors.Is(err, ErrNotAdmitted) || errors.Is(err, ErrWrongPeer) {
			t.cfg.Events(Refused{Peer: p.id, Err: err})
		}
		if !errors.Is(err, errUseMine) {
			err = fmt.Errorf("%w: %w", ErrUnreachable, err)
		}
	}
	return l, addr, err
}

func (t *Transport) introduce(ctx context.Context, p *peer, conn net.Conn) (*link, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if _, err := conn.Write(greeting{version: protocolVersion, hello: t.hello(p.id)}.encode()); err != nil {
		return nil, err
	}
	g, err := readGreeting(conn)
	if err != nil {
		return nil, err
	}
	if err := g.refusal(); err != nil {
		return nil, err
	}
	if g.hello.From != p.id || g.hello.To != t.cfg.Self {
		return nil, fmt.Errorf("%w: %s instead of %s", ErrWrongPeer, g.hello.From, p.id)
	}
	if err := t.judge(g.hello); err != nil {
		return nil, err
	}
	if !stop() {
		return nil, context.Cause(ctx)
	}
	return newLink(p, conn, g.hello, true), nil
}
