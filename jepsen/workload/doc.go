// Package workload is what the clients of a run do. A [Workload] is a name and a
// [Generator]: it says what each client asks next, and is told what it was
// answered. It asks nothing itself, reads no clock and draws from a seed, so that a
// test can play a whole cluster to it.
//
// Each workload has a checker, or more, in package check: the two agree on what
// the history says, on nothing else. Workloads write to keys of their own, so that
// several run in one cluster at once.
package workload
