package bend

import "time"

// Now is the bent wall clock.
func (b *Bend) Now() time.Time {
	s, now := b.state.Load(), b.now()
	if s.ClockOffsetMS == 0 && s.ClockDriftPPM == 0 {
		return now
	}
	b.felt.clockReads.Add(1)
	bent := now.Add(time.Duration(s.ClockOffsetMS) * time.Millisecond)
	if s.ClockDriftPPM != 0 {
		bent = bent.Add(drifted(now.Sub(s.drifting), s.ClockDriftPPM))
	}
	return bent
}

// drifted is how far a clock is off after a time. In floating point: a time
// times a million would overflow after three hours. 53 bits are a nanosecond in
// a hundred days.
func drifted(since time.Duration, ppm int64) time.Duration {
	return time.Duration(float64(since) * float64(ppm) / 1e6)
}
