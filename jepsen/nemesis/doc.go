// Package nemesis disturbs a cluster by a plan: links, processes, clocks and disks,
// several at once where the plan says so.
//
// A [Kind] is one way to do it. [Plan] draws a [Schedule] of them from a seed, pure:
// who is hit is in the schedule, but for leaders, of whom only the partition is.
// [Schedule.Write] prints it and [Read] takes it back, so a run can be repeated without
// the seed, and by hand shortened. [Groups] are names for several kinds, and
// [Available] says what cannot be done where.
//
// [Run] carries a schedule out on a [Target] and reports what each event did: an
// [Effect] says what was observed, in frames that were dropped, processes that were
// gone, or syncs that failed. One that was not felt proves nothing.
//
// Links, nodes and disks that several events hit follow what [Merge] makes of them;
// what is to be with each is kept apart from how it is brought about, so that
// whatever ends an event, what it did is taken back and nothing else. Jepsen calls
// the links that a cut touches grudges.
package nemesis
