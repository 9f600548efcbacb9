package partition

// ID names one partition of the keyspace: 0 up to the number of partitions.
type ID uint32

// NodeID names one node for the whole life of its data directory: its name, a
// dash and random characters ("n2-k3f9"). A node whose disk was emptied comes
// back under a new NodeID.
type NodeID string
