// Package identity is what a data directory remembers about who its node is:
// the file node.json, with the node id, the cluster it belongs to, and which of
// its starts the cluster registered.
//
// Invariants:
//
//   - A node id is made once, for an empty directory, and never changes. A
//     directory whose identity is lost is refused, not given a new one: the data
//     in it was promised under the old id.
//   - The cluster id is set once. A node never moves to another cluster with its
//     disk.
//   - A start is written down (Attempt) before the cluster is told of it, and the
//     cluster's answer (Confirm) before the node serves. The cluster takes a start
//     only if the one on its record is the one that the directory knows: compare
//     and swap. So the record of the newest copy of a directory is at most one
//     start ahead of the cluster's, and every older copy is refused, for ever,
//     however often it is started.
//   - A refusal by the cluster is kept: every later Open fails with it, and is not
//     counted. Only emptying the directory ends it.
//   - One process a directory: the file LOCK is held until Close.
//   - After a crash at any moment the directory opens as it was before or after
//     the write in flight, or is as if it had never been used. The file is written
//     beside, synced, renamed over the old one, and the directory synced.
//
// node.Open is the only caller, before anything else in the directory is made:
// that order is what lets a missing node.json beside other files mean a loss.
package identity
