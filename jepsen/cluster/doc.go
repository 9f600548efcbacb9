// Package cluster runs real capstan processes on the hosts of a lab, one node a
// host, and does to them what happens to processes: it kills, stops, pauses and
// starts them again, and empties their disks.
//
// It knows the product as an operator does: the flags of capstan serve, signals,
// /readyz, the data directory, the log. What clients say is the business of
// whoever uses it.
//
// Files stay where [Config] says, for whoever looks at a run afterwards: NAME.log is
// all that the processes of a node said, NAME/ is its data directory.
// [Cluster.Trouble] looks for what must never stand there.
package cluster
