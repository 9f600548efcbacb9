package node

// Kinds of calls between nodes. Those below 16 belong to replication and
// overtake bulk traffic.
const (
	kindHop     uint8 = 32 + iota // an operation on its marked hop
	kindControl                   // a control command, on its way to the control leader
	kindStatus                    // what a node knows of its own replicas
	kindPromise                   // formation: the founder asks for a promise
	kindDiskLow                   // the sender's disk is nearly full
	kindCompare                   // a replica's part in a comparison
)
