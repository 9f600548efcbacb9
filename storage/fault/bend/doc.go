// Package bend makes a running node's disk and wall clock misbehave when a file
// says so: for tests of whole processes from outside. Only cmd/capstan uses it,
// and only when built with the tag capstan_faults; no other binary contains it.
//
// It owns the control file that a test writes ([Control]), the file beside it in
// which the node tells what it felt ([Counters]), and what stands between a node
// and its machine: a clock ([Bend.Now]) and a file system ([Bend.FS]).
//
// The test replaces the control file atomically (write another, rename it);
// the node reads it every 50 ms and tells in "seen" which one is in force. What
// can not be read, a field that is not known or a value out of bounds changes
// nothing and is an event. No file: nothing is bent.
//
// The clock that is bent is that of timestamps. Timers, elections and the age
// of data for bounded reads go by the machine's clocks, which no test can lie
// about in a real process; nor must any answer depend on the bent one.
//
// The disk is the [vfs.FS] seam: node.json, the log database and the state
// database. What bolt writes does not go through it and is never bent: the
// control group's log (control.bolt), and with --raft-log=bolt those of all
// partitions.
//
// A disk may also be volatile: then kill -9 is a power cut. What is written is
// kept in the process until it is synced, content by a sync of the file, names
// by one of the directory (see volatile); the machine's disk holds at each moment
// what a power cut would leave. So a test of real processes finds out who
// acknowledges before it has synced, which a plain kill never shows. What bolt
// writes survives a kill, as it does without this.
package bend
