// Package partition decides where keys live: which partition a key belongs
// to, which nodes hold each partition, and which moves lead from the placement
// there is to the one there should be. Everything in it is a pure function of
// its arguments: no I/O, no clock, no randomness, and the same result whatever
// the order of the nodes given.
//
// # Keys
//
// A key's partition is the top bits of the XXH64 (seed 0) of its tag: [Of].
// The tag is the text between the first '{' and the next '}', or the whole key
// (Redis Cluster's rule): [Tag]. Neither can change without losing sight of
// every key ever written; golden vectors pin them. The number of partitions is
// fixed when a cluster is founded.
//
// # Placement
//
// [Place] walks the [Ring] (consistent hashing with virtual nodes) from each
// partition's point and takes nodes whose load is still below their capacity
// (Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded
// Loads", 2016), with zones as a further limit. What the greedy walk leaves
// uneven is set right by a minimum-cost flow. [Plan] is the same flow, begun
// from the placement there is: it keeps as many replicas as any valid
// placement can.
//
// Invariants of a placement, named so that tests can hold it to them:
//
//   - min(replication factor, nodes) replicas a partition, all on different
//     nodes;
//   - at most [Bounds.ZoneLimit] of them in one zone: 1 while there are as many
//     zones as replicas, else the smallest number that suffices;
//   - each node's replicas within its [Share]: its fair share rounded down or
//     up, where a share is fair if all nodes have the same, except that nodes
//     of a zone too large to use its full part have that zone's part. That is
//     the bound of the paper with the factor c = 1, which a flow can meet and a
//     greedy walk could not.
//
// Leaders are spread by [PlanLeaders]: no node leads more than
// [LeaderLimit], by the fewest transfers.
//
// The control group's placement driver calls Place, Plan and PlanLeaders;
// routers and clients call Of.
package partition
