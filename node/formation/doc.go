// Package formation is how a cluster begins: which of the first N nodes founds
// it (--bootstrap-expect N counts them all), and how the others come to know that
// they are to join. It ends before Raft begins: the founder makes the control
// group with itself as the single voter, and everybody else is added to that.
//
// # Protocol
//
//	Decide      pure: from what gossip shows, wait, join, or seek to found
//	Promises    pure: what this node has promised, and to whom; answers requests
//	Coordinator the thin doer around both: asks, waits, retries
//
// A node that belongs to no cluster looks at the alive members. If one belongs to
// a cluster, it joins that. Else, if with itself at least N nodes belong to none
// and expect N, the N with the smallest ids are the set and the smallest of them
// is the founder. The founder promises itself to its formation, asks each other
// one of the set for its promise, and founds only when it holds all N. The
// formation's random id becomes the cluster's. Whoever already belongs to a cluster
// answers with its id, and the asker joins that instead.
//
// # Why there are no two clusters
//
// Rules: (1) a founder's promise to its own formation stands without a gap, in one
// life of its process, from before it asks anyone until it durably belongs to the
// new cluster; meanwhile it promises nobody else. (2) A promise counts only as the
// answer to a request of this very formation. (3) Who belongs to a cluster never
// promises. (4) Node ids in a set are N different machines: of two members of one
// name neither is counted.
//
// Say A and B, two of N first nodes, both found, A first, and neither loses its
// disk. Each set has N of N machines, so A's set has B and B's set has A (an id
// that B had before its disk was emptied cannot have answered A after B's present
// id has answered anyone). B promised to A between A's start and A's founding,
// so before B's own start (rule 1). A promised to B after B's start, so after
// A's start; by rule 1 not before A's founding, by rule 3 not after. So there is
// no such B. The argument needs no clock, no durable promise and no bound on how
// long a message or a paused process takes: a promise's lifetime is for progress
// only, and a node may forget its promises in a restart.
//
// # What happens when
//
//   - All start at once: each sees the others within a few gossip rounds. Nodes
//     whose views differ may seek at the same time; promises collide, attempts end,
//     promises lapse after PromiseLifetime, and once the views agree one founder is
//     left.
//   - One starts late: nothing happens until it is there, N counts all first nodes.
//     If the cluster is founded meanwhile (by nodes that needed only the others), it
//     joins.
//   - One comes back with an emptied disk: it has a new id. If a member belongs to
//     the cluster, it joins. If none did yet, it counts as the machine that it is. If
//     the one that had founded, alone, lost its disk, nothing was in that cluster
//     yet, and the nodes found another.
//   - More than N are there: the set is the N smallest, the rest join. With views
//     that differ, two sets may leave each other's founder out, and a promise that
//     lapses in between can then serve both: that is a wrong N, and the two clusters
//     refuse each other by their ids. Nodes added later are to be started with 0.
//   - A member that belongs to a cluster has failed: nobody founds beside it, unless
//     an alive node of its name shows that its disk was emptied.
//   - The founder dies before it belongs to the cluster: nothing was founded. It may
//     be given the promises again at once, others after PromiseLifetime.
//   - The founder dies after: it comes back belonging to the cluster, and the others
//     join then. Until then they wait, since its set needs it.
//
// The caller makes the control group durable first and records the cluster id
// second (identity.SetCluster), calls Belong third; on restart it records the id
// of a control group that it finds before it opens membership or answers requests.
// Between Found and Belong the Coordinator refuses every request.
package formation
