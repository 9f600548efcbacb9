package transport

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/capstan-kv/capstan/partition"
)

// peer is what one node knows of another: the connection, if there is one,
// and else how the attempts to make one go.
type peer struct {
	t        *Transport
	id       partition.NodeID
	link     atomic.Pointer[link]
	heard    atomic.Int64 // since t.started; 0: never
	count    counters
	handlers [classes]atomic.Int64 // running for its calls
	// answers counts bytes of answers that wait for room in the queue.
	answers atomic.Int64

	mu      sync.Mutex
	links   uint64 // connections so far
	closed  bool
	dialing context.CancelFunc // of the attempt that is under way; nil: none
	running bool               // the redial goroutine
	failed  error              // why the last attempt failed; requests fail with it meanwhile
	attempt int                // failures in a row
	wanted  time.Time          // last request
	changed chan struct{}      // closed and replaced at each change
}

func newPeer(t *Transport, id partition.NodeID) *peer {
	return &peer{t: t, id: id, changed: make(chan struct{})}
}

func (p *peer) changeLocked() {
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *peer) connect(done <-chan struct{}) (*link, error) {
	for {
		if l := p.link.Load(); l != nil {
			return l, nil
		}
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			return nil, ErrClosed
		}
		p.wanted = time.Now()
		if p.link.Load() != nil {
			p.mu.Unlock()
			continue
		}
		if !p.running {
			p.running = true
			if !p.t.spawn(p.redial) {
				p.running = false
				p.mu.Unlock()
				return nil, ErrClosed
			}
		}
		failed, changed := p.failed, p.changed
		p.mu.Unlock()
		if failed != nil {
			return nil, failed
		}
		select {
		case <-changed:
		case <-done:
			return nil, fmt.Errorf("%w: %w while dialing", ErrUnreachable, errGivenUp)
		}
	}
}

// redial dials until there is a connection or nobody wants one any more.
func (p *peer) redial() {
	for {
		p.mu.Lock()
		if p.closed || p.link.Load() != nil || (p.failed != nil && time.Since(p.wanted) > wantedFor) {
			p.running, p.failed = false, nil
			p.changeLocked()
			p.mu.Unlock()
			return
		}
		ctx, cancel := context.WithCancel(p.t.ctx)
		p.dialing = cancel
		p.mu.Unlock()

		l, addr, err := p.t.dial(ctx, p)
		if err == nil {
			p.install(l)
			l.start()
		}
		cancel()

		p.mu.Lock()
		p.dialing = nil
		if err == nil || p.link.Load() != nil {
			p.mu.Unlock()
			continue
		}
		if errors.Is(err, errUseMine) {
			if p.awaitLocked(useMineWait) {
				continue
			}
			p.mu.Lock()
			err = fmt.Errorf("%w: %w, but did not arrive", ErrUnreachable, errUseMine)
		}
		if p.closed {
			p.mu.Unlock()
			continue
		}
		pause := min(backoffMin<<min(p.attempt, 10), backoffMax)
		pause = pause/2 + rand.N(pause/2)
		p.attempt++
		p.failed = err
		p.changeLocked()
		p.mu.Unlock()
		p.t.cfg.Events(DialFailed{Peer: p.id, Addr: addr, Err: err, Backoff: pause})
		p.mu.Lock()
		p.awaitLocked(pause)
	}
}

// awaitLocked unlocks and waits for a connection, a kick or the end of the
// time; true for the first two.
func (p *peer) awaitLocked(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for first := true; ; first = false {
		kicked := !first && p.failed == nil && p.attempt == 0
		if p.closed || p.link.Load() != nil || kicked {
			p.mu.Unlock()
			return true
		}
		changed := p.changed
		p.mu.Unlock()
		select {
		case <-changed:
			p.mu.Lock()
		case <-timer.C:
			return false
		}
	}
}

func (p *peer) kick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.attempt, p.failed = 0, nil
	p.changeLocked()
}

// accept takes the place of the current connection with an incoming one,
// unless this side's own dial has precedence: the smaller node id's, if both
// dialed at about the same time.
func (p *peer) accept(l *link) bool {
	p.mu.Lock()
	if p.t.cfg.Self < p.id {
		current := p.link.Load()
		young := current != nil && current.dialed && current.hello.Incarnation == l.hello.Incarnation &&
			time.Since(current.born) < simultaneous
		if p.dialing != nil || young {
			p.mu.Unlock()
			return false
		}
	}
	if p.dialing != nil {
		p.dialing()
	}
	p.installLocked(l)
	return true
}

func (p *peer) install(l *link) {
	p.mu.Lock()
	p.installLocked(l)
}

// installLocked unlocks.
func (p *peer) installLocked(l *link) {
	closed := p.closed
	var old *link
	if !closed {
		p.links++
		l.at = p.links
		old = p.link.Swap(l)
		p.failed, p.attempt = nil, 0
		p.count.connects.Add(1)
		p.changeLocked()
	}
	p.mu.Unlock()
	if closed {
		l.fail(ErrClosed)
		return
	}
	if old != nil {
		old.fail(errReplaced)
	}
	p.t.cfg.Events(Connected{Peer: l.hello, Dialed: l.dialed})
	if p.t.cutFrom(p.id) {
		l.fail(ErrCut) // cut during the handshake: too late to be severed
	} else if err := p.t.judge(l.hello); err != nil {
		l.fail(err) // what is judged by changed during the handshake
	}
}

// lost says that l has ended.
func (p *peer) lost(l *link, err error) {
	if p.link.CompareAndSwap(l, nil) {
		p.t.cfg.Events(Disconnected{Peer: p.id, Err: err})
	}
}

// sever ends the connection and the dial under way. What is installed later
// judges by itself.
func (p *peer) sever(err error) {
	p.mu.Lock()
	if p.dialing != nil {
		p.dialing()
	}
	l := p.link.Load()
	p.mu.Unlock()
	if l != nil {
		l.fail(err)
	}
}

func (p *peer) close() {
	p.mu.Lock()
	p.closed = true
	p.changeLocked()
	p.mu.Unlock()
	p.sever(ErrClosed)
}
