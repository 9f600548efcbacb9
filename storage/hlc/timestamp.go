package hlc

import "time"

// Timestamp is a hybrid logical clock reading: the upper 48 bits are
// milliseconds since the Unix epoch, the lower 16 a counter. Timestamps order
// by plain comparison. It is not a Unix time: use [Timestamp.Time].
type Timestamp uint64

const counterBits = 16

// At is the lowest timestamp of the millisecond in which t falls. Times before
// 1970 give 0.
func At(t time.Time) Timestamp {
	ms := t.UnixMilli()
	if ms < 0 {
		return 0
	}
	return Timestamp(uint64(ms) << counterBits)
}

// Time is the physical part of t.
func (t Timestamp) Time() time.Time { return time.UnixMilli(int64(t >> counterBits)) }

// Counter is the logical part of t.
func (t Timestamp) Counter() uint16 { return uint16(t) }
