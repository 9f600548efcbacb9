// Package metrics turns a node's figures into the Prometheus text format.
//
// Requests are counted as they end ([Registry.Observe]); everything else is
// read when somebody scrapes, from a [Snapshot] that the node fills in. No
// label ever holds a key, a value or anything else that a client chooses.
package metrics
