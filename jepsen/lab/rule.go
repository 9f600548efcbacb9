package lab

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// MaxDelay bounds how long a rule may hold a frame back.
const MaxDelay = 10 * time.Second

// maxBacklog is how long a frame may wait for a narrow link to be free, as in the
// buffer of a router. Beyond it frames are dropped, which is how TCP learns
// the rate.
const maxBacklog = 500 * time.Millisecond

// Rule is what a link does to the frames it is given. The zero Rule delivers
// each at once.
type Rule struct {
	Cut       bool          `json:"cut,omitempty"`       // nothing arrives, neither what is on its way
	Delay     time.Duration `json:"delay,omitempty"`     // of each frame, at most MaxDelay
	Jitter    time.Duration `json:"jitter,omitempty"`    // each frame takes up to this much longer: they overtake each other
	Loss      float64       `json:"loss,omitempty"`      // the part of frames that is lost, 0 to 1
	Duplicate float64       `json:"duplicate,omitempty"` // the part of those not lost that arrives twice, 0 to 1
	Rate      int64         `json:"rate,omitempty"`      // bytes a second; 0: no limit
}

// Validate says what is wrong with a rule.
func (r Rule) Validate() error {
	switch {
	case r.Delay < 0 || r.Jitter < 0 || r.Delay > MaxDelay || r.Jitter > MaxDelay-r.Delay:
		return fmt.Errorf("delay %s with jitter %s: neither is negative, and together they are at most %s", r.Delay, r.Jitter, MaxDelay)
	case !(r.Loss >= 0 && r.Loss <= 1) || !(r.Duplicate >= 0 && r.Duplicate <= 1): // NaN is neither
		return fmt.Errorf("loss %v, duplicate %v: both are parts, 0 to 1", r.Loss, r.Duplicate)
	case r.Rate < 0:
		return fmt.Errorf("rate %d: it is not negative", r.Rate)
	}
	return nil
}

// Traffic counts frames of one link. At any moment
//
//	Sent + Duplicated = Delivered + Cut + Lost + Overflowed + Waiting
type Traffic struct {
	Sent       uint64 // handed to the link
	Duplicated uint64 // copies made of them
	Delivered  uint64
	Cut        uint64 // dropped because the link was cut
	Lost       uint64 // dropped by chance
	Overflowed uint64 // dropped because too much was waiting already, on the link or at the host
	Waiting    uint64 // on their way
	Bytes      uint64 // delivered
}

// passage is what becomes of one frame.
type passage struct {
	cut, lost, overflowed bool
	copies                int // 1 or 2, if none of those
	arrive                [2]time.Time
	free                  time.Time // when the link can take the next
}

// pass decides what becomes of a frame of size bytes. Free is when the link is
// done with the frames before.
func (r Rule) pass(now, free time.Time, size int, random *rand.Rand) passage {
	p := passage{free: free}
	if r.Cut {
		p.cut = true
		return p
	}
	if r.Loss > 0 && random.Float64() < r.Loss {
		p.lost = true
		return p
	}
	through := now
	if r.Rate > 0 {
		if free.After(now) {
			through = free
		}
		if through.Sub(now) > maxBacklog {
			p.overflowed = true
			return p
		}
		through = through.Add(time.Duration(float64(size) / float64(r.Rate) * float64(time.Second)))
		p.free = through
	}
	p.copies = 1
	if r.Duplicate > 0 && random.Float64() < r.Duplicate {
		p.copies = 2
	}
	for i := range p.copies {
		p.arrive[i] = through.Add(r.Delay)
		if r.Jitter > 0 {
			p.arrive[i] = p.arrive[i].Add(time.Duration(random.Int64N(int64(r.Jitter) + 1)))
		}
	}
	return p
}
