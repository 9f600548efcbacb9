package replication

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Bounded staleness: a replica answers from its own state as long as it can
// prove that the state is not older than the reader allows.
//
// The proof is a read index that was asked for at most that long ago and is
// applied here: it covers all that was acknowledged before it was asked for
// (confirm.go). Age is measured on this node's own clock, from before the
// asking to now, so no two clocks are compared and the time on the network
// counts as age. Only that clock's rate matters, and that it does not stand
// still while the machine is suspended.
//
// Every read index serves: those of linearizable reads, those of the bounded
// reads that found none young enough, and those that the refresher asks for
// (refresh.go), so that a busy reader hardly ever waits for one.

// maxAskings by one bounded read. One is enough, unless the replica was so far
// behind that the answer was too old when it had caught up.
const maxAskings = 3

// Bounded returns once the replica can prove that its state is at most bound
// old, and gives how old: a read of the state from now on sees all that was
// acknowledged up to then. A remembered read index answers at once; else it
// asks for one, as [Group.ReadIndex] does, until ctx is done.
//
// bound is above zero; one shorter than it takes to ask the leader can hardly be
// met. Every failure is an [*Error] and definite. It is TooStale if there is
// no quorum or no leader to ask, or asking takes longer than bound.
func (g *Group) Bounded(ctx context.Context, bound time.Duration) (staleness time.Duration, err error) {
	if bound <= 0 {
		return 0, &Error{Reason: BadOption, Outcome: NotApplied, Message: fmt.Sprintf("a bound on staleness must be above zero, not %v", bound)}
	}
	if err := g.unusable(); err != nil {
		return 0, err
	}
	now := g.host.elapsed()
	g.host.refresher.want(g, bound, now)
	for range maxAskings {
		if age, ok := g.staleness(now); ok && age <= bound {
			return age, nil
		}
		index, err := g.ReadIndex(ctx)
		if err == nil {
			err = g.WaitApplied(ctx, index)
		}
		if err != nil {
			return 0, g.tooStale(bound, err)
		}
		now = g.host.elapsed()
	}
	if age, ok := g.staleness(now); ok && age <= bound {
		return age, nil
	}
	return 0, g.tooStale(bound, nil)
}

// Staleness is an upper bound of the age of the replica's state, as far as it
// is known without asking anybody: all that was acknowledged before then is
// applied. False if nothing is known.
func (g *Group) Staleness() (age time.Duration, ok bool) { return g.staleness(g.host.elapsed()) }

// staleness is that age as of now.
func (g *Group) staleness(now time.Duration) (age time.Duration, ok bool) {
	asked, ok := g.remembered.newest(g.applied.index.Load())
	return max(0, now-asked), ok // a round may have begun since
}

// remember takes up a read index for this replica's group that was asked for
// at asked.
func (g *Group) remember(asked time.Duration, index uint64) {
	g.remembered.add(asking{asked, index}, g.applied.index.Load())
}

// tooStale is the refusal of a bounded read. What has nothing to do with age
// stays what it is.
func (g *Group) tooStale(bound time.Duration, cause error) error {
	e := &Error{Reason: TooStale, Outcome: NotApplied, Err: cause,
		Message: fmt.Sprintf("this replica cannot show that its state is at most %v old", bound),
		Try:     "retry, allow more staleness, or use eventual consistency"}
	if age, ok := g.Staleness(); ok {
		e.Message += fmt.Sprintf(", it may be %v old", age.Round(time.Millisecond))
	}
	if cause == nil {
		e.Message += ": asking the leader takes longer"
		e.Try = "allow more staleness"
		return e
	}
	why := (*Error)(nil)
	if !errors.As(cause, &why) || why.Reason != NoQuorum {
		return cause
	}
	e.Reachable, e.Needed = why.Reachable, why.Needed
	return e
}
