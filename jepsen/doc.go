// Package jepsen runs partition tests: it makes hosts, starts a cluster of real
// capstan processes on them, has clients work while a nemesis disturbs, heals all,
// asks what the cluster ended with, and has the history judged. It is a client of
// the cluster's public face, and knows nothing else of it.
//
// [Run] is all of that. What it does stands in packages of their own: hosts and
// links in lab, processes in cluster, faults in nemesis, what clients do in
// workload, the record in history, the judgement in check. Here they meet:
//
//   - asked.go: one operation at one node, and what its answer means for the history.
//   - load.go: the slots of a workload, each one operation after the other.
//   - identity.go: which node id stands behind a name.
//   - faults.go: the nemesis, told to the history.
//   - end.go: from the last fault to the last line.
//
// # What the history promises
//
// A write ends as Fail only if the cluster said that it was not applied, or if
// nothing was sent; everything else that is no answer is Info. An operation
// at a certain node is sent once: nothing here tries again. One that asks no certain
// node may have been sent several times, by the client that users have: again only
// if the cluster said that it was not applied. An operation's NodeID is empty where
// it is not certain which node has answered under that name.
package jepsen
