package hlc

import (
	"sync"
	"time"

	"github.com/capstan-kv/capstan/storage/fault"
)

// Clock gives out timestamps. It is safe for concurrent use; a reading costs
// one call of the wall clock and a short mutex.
type Clock struct {
	now       func() time.Time
	maxOffset time.Duration

	mu    sync.Mutex
	last  Timestamp // the clock's reading: the highest given by Now or observed
	ahead spans     // given by NowAfter above the clock
}

// New is a clock over the wall clock now, which need not be monotonic.
// maxOffset bounds how far timestamps from elsewhere move the clock ahead of
// the wall clock; a negative one counts as 0.
func New(now func() time.Time, maxOffset time.Duration) *Clock {
	return &Clock{now: now, maxOffset: max(maxOffset, 0)}
}

// Now is a timestamp above all that Now gave before and above all that the
// clock has followed: the wall clock's millisecond where that is higher, else
// the last reading's successor.
func (c *Clock) Now() Timestamp {
	wall := At(c.now())
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tick(wall)
}

// Observe moves the clock up to t, so that later readings are above it, but
// not beyond the wall clock plus the maximum offset.
func (c *Clock) Observe(t Timestamp) {
	limit := c.limit(c.now())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = max(c.last, min(t, limit))
}

// NowAfter is a timestamp above t, and above the clock. Where t is beyond what
// [Clock.Observe] would follow, so is the result, and the clock stays where it
// was: later calls of Now may well be below it. Results are distinct, from
// each other and from those of Now, as long as no more than maxSpans separate
// futures are in use at a time; beyond that the nearest one is forgotten, and
// only the order that t asks for is kept. There is nothing above [Max]: it is
// its own successor.
func (c *Clock) NowAfter(t Timestamp) Timestamp {
	now := c.now()
	wall, limit := At(now), c.limit(now)
	c.mu.Lock()
	defer c.mu.Unlock()
	if t <= c.last {
		return c.tick(wall)
	}
	if t < limit {
		c.last = t
		return c.tick(wall)
	}
	c.ahead.dropBelow(c.last)
	return c.ahead.take(t.next())
}

// Last is the clock's reading without moving it: no result of Now so far is
// above it. Kept on disk and given to [Clock.Restore] it carries the clock
// over a restart.
func (c *Clock) Last() Timestamp {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// Restore sets a floor after a restart, in case the wall clock was set back
// meanwhile. It is not bounded by the offset, so t must be an own earlier
// reading ([Clock.Last]) and never a timestamp from elsewhere.
func (c *Clock) Restore(t Timestamp) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = max(c.last, t)
}

// tick moves the clock to its next reading.
func (c *Clock) tick(wall Timestamp) Timestamp {
	c.last = max(wall, c.last.next())
	c.ahead.dropBelow(c.last)
	c.last = c.ahead.skip(c.last)
	return c.last
}

// limit is what no timestamp from elsewhere moves the clock beyond.
func (c *Clock) limit(now time.Time) Timestamp {
	if fault.On(fault.FarFuture) {
		return Max
	}
	return At(now.Add(c.maxOffset))
}
