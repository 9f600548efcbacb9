package replication

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// maxEntriesInFlight is how many entries of one group may be between
	// proposed and applied before commands gather: enough to overlap the
	// leader's fsync with the followers', few enough that under load many
	// commands share an entry. No timer is needed: a lone command goes at once.
	maxEntriesInFlight = 4
	// maxQueueBytes and maxQueueCommands bound what waits behind them: a few
	// hundred milliseconds' worth at full speed. Beyond, refusing is kinder.
	maxQueueBytes    = 16 << 20
	maxQueueCommands = 16 << 10
	// proposalOverhead is what a command takes up beside its bytes while it waits.
	proposalOverhead = 256
)

// proposer gathers a group's commands into entries.
type proposer struct {
	group *Group

	mu       sync.Mutex
	queue    []*proposal
	bytes    int // of the queue
	inFlight int // entries
	working  bool
	closed   bool
}

// proposal is one command on its way.
type proposal struct {
	command []byte
	handed  bool          // to Raft: from then on its outcome may be unknown
	given   bool          // up by its caller, before it was handed over
	answer  chan proposed // buffered
}

type proposed struct {
	result any
	err    *Error
}

// Propose replicates cmd and gives the machine's result once it is committed
// and applied here. It goes through the leader only: at another replica it
// fails at once, definitely, with NotLeader set. It waits for a leader while a
// quorum is reachable, until ctx is done. An Error with outcome Unknown means
// that cmd may have been applied or may yet be; nothing here retries it. The
// caller must not change cmd until Propose returns, nor after an Unknown error.
func (g *Group) Propose(ctx context.Context, cmd []byte) (any, error) {
	if len(cmd) > maxCommandBytes {
		return nil, &Error{Reason: ValueTooLarge, Outcome: NotApplied, Message: "the command is above the size limit of 4 MiB"}
	}
	if err := g.awaitLead(ctx); err != nil {
		return nil, err
	}
	if err := g.stallRefusal(time.Now()); err != nil {
		return nil, err
	}
	p := &proposal{command: cmd, answer: make(chan proposed, 1)}
	if err := g.proposer.enqueue(p); err != nil {
		return nil, err
	}
	var a proposed
	select {
	case a = <-p.answer:
	case <-ctx.Done():
		if g.proposer.withdraw(p) {
			return nil, deadline(NotApplied, "the write waited to be proposed", ctx.Err())
		}
		select { // handed over; the answer may be there by now
		case a = <-p.answer:
		default:
			return nil, unknownDeadline(ctx.Err())
		}
	}
	if a.err != nil {
		return nil, a.err
	}
	return a.result, nil
}

// awaitLead returns nil once the replica leads, provenly.
func (g *Group) awaitLead(ctx context.Context) error {
	for {
		changed := g.changed()
		if err := g.refusal(); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return g.outOfTime(ctx.Err(), "waiting for a leader")
		}
		leader := g.leader()
		switch {
		case g.lead() != nil && g.raft.State() == raft.Leader:
			return nil
		case leader.Node != "" && leader.ServerID() != g.self:
			return notLeader(leader, nil)
		}
		if !g.pause(ctx, changed, g.host.timing.recheck()) {
			return g.outOfTime(ctx.Err(), "waiting for a leader")
		}
	}
}

func (b *proposer) enqueue(p *proposal) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return stopping()
	case len(b.queue) >= maxQueueCommands || b.bytes+len(p.command) > maxQueueBytes:
		return overloaded("too many writes wait for this group")
	}
	if err := b.group.host.proposals.Take(p.weight()); err != nil {
		refused := overloaded("too many writes are on their way at this node")
		refused.Err = err
		return refused
	}
	b.queue = append(b.queue, p)
	b.bytes += len(p.command)
	b.kick()
	return nil
}

// weight is what the node's budget is charged for a command.
func (p *proposal) weight() int64 { return int64(len(p.command) + proposalOverhead) }

// withdraw reports whether p could be taken back before it was handed over.
func (b *proposer) withdraw(p *proposal) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.handed {
		return false
	}
	p.given = true
	return true
}

// kick starts the one goroutine that hands entries over. The caller holds mu.
func (b *proposer) kick() {
	if b.working || len(b.queue) == 0 || b.inFlight >= maxEntriesInFlight {
		return
	}
	if b.working = b.group.hand(b.work); !b.working {
		b.refuseAll(stopping())
	}
}

func (b *proposer) work() {
	for {
		b.mu.Lock()
		if b.inFlight >= maxEntriesInFlight || len(b.queue) == 0 {
			b.working = false
			b.mu.Unlock()
			return
		}
		batch := b.take()
		if len(batch) == 0 {
			b.mu.Unlock()
			continue
		}
		b.inFlight++
		b.mu.Unlock()
		commands := make([][]byte, len(batch))
		for i, p := range batch {
			commands[i] = p.command
		}
		future := b.group.propose(encodeBatch(commands))
		// Always taken: Close waits for this goroutine first.
		b.group.handed.Go(func() { b.finish(batch, future) })
	}
}

// take removes the next batch from the queue and marks it handed over. The
// caller holds mu.
func (b *proposer) take() []*proposal {
	var batch []*proposal
	size, n := 0, 0
	for _, p := range b.queue {
		if len(batch) > 0 && (size+len(p.command) > maxBatchBytes || len(batch) == maxBatchCommands) {
			break
		}
		n++
		b.bytes -= len(p.command)
		if p.given {
			b.group.host.proposals.Give(p.weight())
			continue
		}
		p.handed = true
		size += len(p.command)
		batch = append(batch, p)
	}
	clear(b.queue[:n])
	if b.queue = b.queue[n:]; len(b.queue) == 0 {
		b.queue = nil
	}
	return batch
}

// finish answers a batch once Raft has answered its entry.
func (b *proposer) finish(batch []*proposal, future raft.ApplyFuture) {
	err := future.Error()
	if err != nil {
		e := proposalError(err, b.group.leader())
		for _, p := range batch {
			p.answer <- proposed{err: e}
		}
	} else {
		for i, p := range batch {
			p.answer <- answerOf(future.Response(), i, len(batch))
		}
	}
	weight := int64(0)
	for _, p := range batch {
		weight += p.weight()
	}
	b.group.host.proposals.Give(weight)
	b.mu.Lock()
	b.inFlight--
	b.kick()
	b.mu.Unlock()
}

// answerOf is the result of command i of n, from what the fsm answered to
// their entry.
func answerOf(response any, i, n int) proposed {
	switch r := response.(type) {
	case []any:
		if len(r) == n {
			return proposed{result: r[i]}
		}
	case applyFailure:
		// Committed, but this replica could not apply it: others will.
		return proposed{err: &Error{Reason: LeaderChanged, Outcome: Unknown, Err: r.err,
			Message: "the leader failed while applying the write", Try: "read the key to see whether it was applied"}}
	}
	return proposed{err: &Error{Reason: LeaderChanged, Outcome: Unknown,
		Message: "the write was committed and its result is not known", Try: "read the key to see whether it was applied"}}
}

// close refuses what waits and what comes.
func (b *proposer) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.refuseAll(stopping())
}

func (b *proposer) refuseAll(e *Error) {
	for _, p := range b.queue {
		b.group.host.proposals.Give(p.weight())
		if !p.given {
			p.handed = true
			p.answer <- proposed{err: e}
		}
	}
	b.queue, b.bytes = nil, 0
}

// hand runs fn, which waits for an answer of Raft's, in a goroutine that Close
// waits for before it shuts Raft down: the library leaves entries unanswered
// that it has committed but not applied by then. False once closing.
func (g *Group) hand(fn func()) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sealed {
		return false
	}
	g.handed.Go(fn)
	return true
}

// drain lets no more be handed over and waits for what was, at most d.
func (g *Group) drain(d time.Duration) {
	g.mu.Lock()
	g.sealed = true
	g.mu.Unlock()
	done := make(chan struct{})
	go func() {
		g.handed.Wait()
		close(done)
	}()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}
