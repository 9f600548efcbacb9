package budget

import (
	"fmt"
	"sync"
	"time"
)

// Limits are the bounds of a [Budget]. Zero means that there is no such bound.
type Limits struct {
	// Bytes and Count bound all claims together, OwnerBytes and OwnerCount those of
	// one owner.
	Bytes, OwnerBytes int64
	Count, OwnerCount int
	// Patience is how long a claim may wait without progress. Pressed is how long it
	// may do so while another claim needs its room.
	Patience, Pressed time.Duration
}

// Budget bounds one kind of work of a node. All methods are safe for concurrent use.
type Budget struct {
	name   string
	limits Limits

	mu      sync.Mutex
	bytes   int64
	count   int
	refused uint64
	ended   uint64
	first   *Claim // of those that wait, in the order of their last progress
	last    *Claim
	watch   *time.Timer
	watched bool // the timer is set
}

// New makes a budget. Its name is what messages call it: "requests", "answers".
func New(name string, limits Limits) *Budget {
	return &Budget{name: name, limits: limits}
}

// Full says that a claim did not fit.
type Full struct {
	Budget string
	Owner  bool // the owner's part is used up, not the node's
}

func (f *Full) Error() string {
	if f.Owner {
		return fmt.Sprintf("this client's part of the node's budget for %s is used up", f.Budget)
	}
	return fmt.Sprintf("this node's budget for %s is used up", f.Budget)
}

// Owner is one client, connection or peer: the claims of an owner share a part of the
// budget. An owner belongs to one budget. The zero value is ready.
type Owner struct {
	bytes int64
	count int
}

// Claim is a part of a budget that is held by one piece of work. Its methods may be
// called by one goroutine at a time.
type Claim struct {
	budget *Budget
	owner  *Owner

	// The rest is guarded by the budget's mutex.
	bytes  int64
	waits  bool
	before *Claim // among those that wait
	after  *Claim
	moved  time.Time
	end    func()
	over   bool          // given back, by Close or because it was ended
	ending chan struct{} // closed when end has returned; nil: it was not called
}

// Claim takes bytes and one of the count. owner may be nil.
func (b *Budget) Claim(owner *Owner, bytes int64) (*Claim, error) {
	c := &Claim{budget: b, owner: owner}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.fit(owner, bytes, 1); err != nil {
		return nil, err
	}
	b.add(c, bytes, 1)
	return c, nil
}

// Grow takes more bytes. What the claim has already stays its own if that fails.
func (c *Claim) Grow(bytes int64) error {
	b := c.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if c.over {
		return &Full{Budget: b.name}
	}
	b.progress(c)
	if err := b.fit(c.owner, bytes, 0); err != nil {
		return err
	}
	b.add(c, bytes, 0)
	return nil
}

// Shrink gives bytes back.
func (c *Claim) Shrink(bytes int64) {
	b := c.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if !c.over {
		b.add(c, -bytes, 0)
	}
}

// Wait says that the work waits for the other side from now on. If nothing moves for
// too long the budget takes the claim back and calls end, once and on a goroutine of
// its own: it has to make the work end soon. [Claim.Close] waits for it.
func (c *Claim) Wait(end func()) {
	b := c.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if c.over || c.waits {
		return
	}
	c.end = end
	b.join(c)
	b.look()
}

// Moved says that the other side has got on.
func (c *Claim) Moved() {
	b := c.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	b.progress(c)
}

// Resume says that the work waits for the other side no longer.
func (c *Claim) Resume() {
	b := c.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	b.leave(c)
}

// Ended reports whether the budget took the claim back because nothing moved.
func (c *Claim) Ended() bool {
	b := c.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	return c.ending != nil
}

// Close gives back what the claim holds. It may be called again, and on nil.
func (c *Claim) Close() {
	if c == nil {
		return
	}
	b := c.budget
	b.mu.Lock()
	ending := c.ending
	if !c.over {
		b.giveBack(c)
	}
	b.mu.Unlock()
	if ending != nil {
		<-ending
	}
}

// Use is what a budget holds and how often it said no.
type Use struct {
	Name         string
	Bytes, Limit int64
	Count        int
	Refused      uint64 // claims that did not fit
	Ended        uint64 // claims that were ended because nothing moved
}

// Use reports what is held now.
func (b *Budget) Use() Use {
	b.mu.Lock()
	defer b.mu.Unlock()
	return Use{Name: b.name, Bytes: b.bytes, Limit: b.limits.Bytes, Count: b.count, Refused: b.refused, Ended: b.ended}
}

// fit makes room if there is none. It is called, as is all below, with the mutex held.
func (b *Budget) fit(owner *Owner, bytes int64, count int) error {
	if owner != nil && !b.ownerFits(owner, bytes, count) {
		b.makeRoom(func(c *Claim) bool { return c.owner == owner }, func() bool { return b.ownerFits(owner, bytes, count) })
		if !b.ownerFits(owner, bytes, count) {
			b.refused++
			return &Full{Budget: b.name, Owner: true}
		}
	}
	if !b.fits(bytes, count) {
		b.makeRoom(func(*Claim) bool { return true }, func() bool { return b.fits(bytes, count) })
		if !b.fits(bytes, count) {
			b.refused++
			return &Full{Budget: b.name}
		}
	}
	return nil
}

func (b *Budget) fits(bytes int64, count int) bool {
	return (b.limits.Bytes == 0 || bytes == 0 || b.bytes+bytes <= b.limits.Bytes) &&
		(b.limits.Count == 0 || b.count+count <= b.limits.Count)
}

func (b *Budget) ownerFits(o *Owner, bytes int64, count int) bool {
	return (b.limits.OwnerBytes == 0 || bytes == 0 || o.bytes+bytes <= b.limits.OwnerBytes) &&
		(b.limits.OwnerCount == 0 || o.count+count <= b.limits.OwnerCount)
}

// makeRoom ends claims that stand still, the longest first.
func (b *Budget) makeRoom(among func(*Claim) bool, enough func() bool) {
	if b.limits.Pressed == 0 {
		return
	}
	now := time.Now()
	for next := b.first; next != nil && !enough(); {
		c := next
		next = c.after
		if now.Sub(c.moved) < b.limits.Pressed {
			return // nor have those behind it
		}
		if among(c) {
			b.finish(c)
		}
	}
}

// finish takes a waiting claim back and has its work end.
func (b *Budget) finish(c *Claim) {
	end, ending := c.end, make(chan struct{})
	c.ending = ending
	b.ended++
	b.giveBack(c)
	go func() {
		defer close(ending)
		end()
	}()
}

func (b *Budget) giveBack(c *Claim) {
	b.leave(c)
	b.add(c, -c.bytes, -1)
	c.over = true
}

func (b *Budget) add(c *Claim, bytes int64, count int) {
	c.bytes += bytes
	b.bytes += bytes
	b.count += count
	if c.owner != nil {
		c.owner.bytes += bytes
		c.owner.count += count
	}
}

func (b *Budget) progress(c *Claim) {
	if c.waits {
		b.leave(c)
		b.join(c)
	}
}

// join puts a claim behind all that wait.
func (b *Budget) join(c *Claim) {
	c.waits, c.moved = true, time.Now()
	c.before, c.after = b.last, nil
	if b.last == nil {
		b.first = c
	} else {
		b.last.after = c
	}
	b.last = c
}

func (b *Budget) leave(c *Claim) {
	if !c.waits {
		return
	}
	c.waits = false
	if c.before == nil {
		b.first = c.after
	} else {
		c.before.after = c.after
	}
	if c.after == nil {
		b.last = c.before
	} else {
		c.after.before = c.before
	}
	c.before, c.after = nil, nil
}

// look has the claims looked at after Patience. One timer serves all of them, and
// runs on when its claims are gone: most are before it fires.
func (b *Budget) look() {
	if b.watched || b.limits.Patience == 0 {
		return
	}
	b.watched = true
	if b.watch == nil {
		b.watch = time.AfterFunc(b.limits.Patience, b.sweep)
		return
	}
	b.watch.Reset(b.limits.Patience)
}

// sweep ends the claims that have waited for too long.
func (b *Budget) sweep() {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	for b.first != nil {
		c := b.first
		left := b.limits.Patience - now.Sub(c.moved)
		if left > 0 {
			b.watch.Reset(left)
			return
		}
		b.finish(c)
	}
	b.watched = false
}

// Take takes bytes for work that never waits for a client, without a [Claim]. The
// budget may be nil: it bounds nothing then.
func (b *Budget) Take(bytes int64) error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.fit(nil, bytes, 0); err != nil {
		return err
	}
	b.bytes += bytes
	return nil
}

// Give gives back what [Budget.Take] took.
func (b *Budget) Give(bytes int64) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bytes -= bytes
}
