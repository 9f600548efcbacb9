package transport

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// AppendEntriesPipeline implements raft.Transport: AppendEntries to one
// follower without waiting for each answer. It lives as long as the
// connection it began on. A failure ends it; the future that failed, and those
// after it, are never handed out, since Raft takes any future for a contact.
func (g *GroupTransport) AppendEntriesPipeline(id raft.ServerID, _ raft.ServerAddress) (raft.AppendPipeline, error) {
	to, err := g.target(id)
	if err != nil {
		return nil, err
	}
	l, err := g.t.linkTo(g.closed, to.node)
	if err != nil {
		return nil, err
	}
	p := &pipeline{
		g: g, link: l, to: to,
		flying: make(chan *appendFuture, PipelineInFlight),
		done:   make(chan raft.AppendFuture, PipelineInFlight),
		broken: make(chan struct{}),
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.isClosed {
		return nil, ErrClosed
	}
	g.wg.Go(p.deliver)
	return p, nil
}

type pipeline struct {
	g      *GroupTransport
	link   *link
	to     target
	flying chan *appendFuture // in the order sent
	done   chan raft.AppendFuture
	once   sync.Once
	broken chan struct{}
	err    error
}

// AppendEntries sends one more and waits while too many are in flight.
func (p *pipeline) AppendEntries(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	if len(args.Entries) == 0 && p.g.mute() {
		p.fail(ErrStalled)
		return nil, ErrStalled
	}
	// What is too large for one message goes as several; only the last one's
	// answer is the answer to the whole.
	rest, start := *args, time.Now()
	for {
		n, err := fitting(rest.Entries)
		if err != nil {
			p.fail(err)
			return nil, err
		}
		part := rest
		part.Entries = rest.Entries[:n:n]
		f := &appendFuture{p: p, start: start, args: args, resp: resp, last: n == len(rest.Entries), ready: make(chan struct{})}
		if err := p.send(f, &part); err != nil {
			p.fail(err)
			return nil, err
		}
		if f.last {
			return f, nil
		}
		rest.Entries = rest.Entries[n:]
		rest.PrevLogEntry, rest.PrevLogTerm = part.Entries[n-1].Index, part.Entries[n-1].Term
	}
}

func (p *pipeline) send(f *appendFuture, args *raft.AppendEntriesRequest) error {
	o := p.g.outgoing(p.link, p.to, rpcAppendEntries, bulk)
	f.id = o.id
	select {
	case <-p.broken: // looked at first: below, either case may be taken
		o.free()
		return p.err
	default:
	}
	select {
	case <-p.broken:
		o.free()
		return p.err
	case p.flying <- f:
	}
	o.payload = appendAppendEntries(o.payload, args)
	if err := p.link.expect(f.id, f); err != nil {
		o.free()
		return err
	}
	err := p.link.send(o, p.broken)
	select {
	case <-p.broken:
		p.link.forget(f.id) // perhaps after deliver has forgotten the others
	default:
	}
	return err
}

// deliver hands futures out in order.
func (p *pipeline) deliver() {
	timer := time.NewTimer(RaftTimeout)
	defer timer.Stop()
	var f *appendFuture
	defer func() {
		if f != nil {
			p.link.forget(f.id)
		}
		for {
			select {
			case f := <-p.flying:
				p.link.forget(f.id)
			default:
				return
			}
		}
	}()
	for {
		select {
		case f = <-p.flying:
		case <-p.broken:
			return
		case <-p.g.closed:
			p.fail(ErrClosed)
			return
		case <-p.link.ended:
			p.fail(ErrLost)
			return
		}
		timer.Reset(RaftTimeout)
		select {
		case <-f.ready:
		case <-p.broken:
			return
		case <-p.g.closed:
			p.fail(ErrClosed)
			return
		case <-timer.C:
			p.fail(ErrLost)
			return
		}
		if f.err != nil {
			p.fail(f.err)
			return
		}
		if !f.last && f.part.Success {
			continue
		}
		*f.resp = f.part
		select {
		case p.done <- f:
		case <-p.broken:
			return
		case <-p.g.closed:
			p.fail(ErrClosed)
			return
		}
		if !f.part.Success {
			p.fail(raft.ErrPipelineShutdown)
			return
		}
	}
}

func (p *pipeline) fail(err error) { p.once.Do(func() { p.err = err; close(p.broken) }) }

// Consumer gives the futures in order.
func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.done }

// Close ends the pipeline; answers still to come are dropped.
func (p *pipeline) Close() error {
	p.fail(raft.ErrPipelineShutdown)
	return nil
}

type appendFuture struct {
	p     *pipeline
	id    uint64
	start time.Time
	args  *raft.AppendEntriesRequest
	resp  *raft.AppendEntriesResponse
	last  bool
	part  raft.AppendEntriesResponse
	err   error
	ready chan struct{}
}

func (f *appendFuture) answer(code uint8, body []byte, err error) {
	if err == nil {
		err = answerError(code, body)
	}
	if err == nil {
		err = decodeResponse(body, &f.part)
	}
	f.err = err
	close(f.ready)
}

// Error waits for the answer.
func (f *appendFuture) Error() error {
	select {
	case <-f.ready:
		return f.err
	case <-f.p.broken:
		return f.p.err
	}
}

func (f *appendFuture) Start() time.Time                      { return f.start }
func (f *appendFuture) Request() *raft.AppendEntriesRequest   { return f.args }
func (f *appendFuture) Response() *raft.AppendEntriesResponse { return f.resp }
