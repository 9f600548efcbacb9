// Package history is what a run did and saw, as a file of JSON lines that can be
// judged again without the cluster: what was run, every request at its invocation
// and at its completion, every fault at its beginning and end, and what the
// cluster ended with.
//
// Each line is an [Event]. Times are nanoseconds since the run began, on the
// monotonic clock of the process where the clients are, so they order what happened
// as the clients saw it, whatever the nodes' clocks said.
//
// A [Recorder] writes a file while the run goes on: a run that is killed leaves all
// that had happened. [Read] takes a file back, strictly: what does not fit
// together is an error, since a checker would judge by it. An operation
// that has no completion is open: its outcome is not known.
package history
