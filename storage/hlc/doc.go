// Package hlc is the hybrid logical clock: readings near the wall clock that
// never repeat and never go back, and that follow what a node has heard of.
//
// It owns [Timestamp] (48 bits of milliseconds, 16 of counter) and [Clock].
//
// Invariants:
//
//   - [Clock.Now] is strictly increasing, whatever the wall clock does. A full
//     counter carries into the milliseconds.
//   - [Clock.Observe] and [Clock.NowAfter] never move a clock beyond the wall
//     clock plus the maximum offset, so one node with a fast clock cannot drag
//     the others along.
//   - [Clock.NowAfter] is above its argument all the same: a write that has
//     seen a value from the future wins over it, and only that write carries
//     the future timestamp.
//   - No timestamp is handed out twice by one clock, within the bound that
//     NowAfter names.
//
// Timestamps order eventual writes among themselves. Nothing else rests on
// them: no clock can make a linearizable answer wrong.
//
// The storage room stamps versions with it. The algorithm is Kulkarni et al.,
// "Logical Physical Clocks" (2014), with the bounded drift of CockroachDB's
// clock, except that a reading too far ahead is not refused.
package hlc
