package hlc

import "time"

// Timestamp is a hybrid logical clock reading: the upper 48 bits are
// milliseconds since the Unix epoch, the lower 16 a counter. Timestamps order
// by plain comparison. It is not a Unix time: use [Timestamp.Time].
type Timestamp uint64

const (
	counterBits = 16

	// Max is the highest timestamp; nothing is above it. It lies in the year
	// 10889, so a decoder may well refuse it.
	Max = Timestamp(1<<64 - 1)
	// Horizon is the first millisecond of the year 2200. No write bears a timestamp
	// at or above it: what is beyond it is a broken clock or a forgery, and there
	// must be room above every write for the next one.
	Horizon = Timestamp(7_258_118_400_000 << counterBits)
)

// At is the lowest timestamp of the millisecond in which t falls. Times before
// 1970 give 0, times that 48 bits cannot hold give [Max].
func At(t time.Time) Timestamp {
	ms := t.UnixMilli()
	switch {
	case ms < 0:
		return 0
	case ms >= 1<<(64-counterBits):
		return Max
	}
	return Timestamp(uint64(ms) << counterBits)
}

// Time is the physical part of t.
func (t Timestamp) Time() time.Time { return time.UnixMilli(int64(t >> counterBits)) }

// Counter is the logical part of t.
func (t Timestamp) Counter() uint16 { return uint16(t) }

// next is the timestamp after t; Max has none and stays.
func (t Timestamp) next() Timestamp {
	if t == Max {
		return Max
	}
	return t + 1
}
