// Package node is one Capstan node: [Open] is the only place where the rooms
// are wired together, and [Node.Close] undoes it in reverse.
//
//	identity     who this data directory is, and which cluster it belongs to
//	storage      the two databases
//	transport    one connection to each other node
//	exchange     eventual writes, from accepting them to their fate
//	control      this node's replica of the control group, and so the ring
//	membership   gossip: who is there
//	formation    how the first nodes found a cluster
//	replicas     the partitions' replicas that the ring gives to this node
//	reports      what members tell each other beside the logs; floors
//	router       any request to where it can be answered
//	sessions     tokens and receipts, in requests and answers
//	chaos        cuts on purpose, with Config.EnableChaos only
//	api          the doors for clients
//
// The router takes a request to the replica here, or by one marked hop to
// another node's; who receives a marked request answers from its own replica or
// refuses. It tries again only what was definitely refused, or what has no
// effect, and never beyond the request's deadline.
//
// An eventual write is accepted by the node that is asked, whether it has a
// replica or not (eventual_write.go); an eventual read takes this node's own
// tentative writes into account wherever else it is answered (eventual_read.go).
// What any replica may know is asked of several in turn, so that a silent one
// uses up no time (ask.go). A session is in the request and nowhere else: no node
// keeps one.
//
// The control group decides who belongs to the cluster and where partitions
// live; every node follows it, so that routing asks nobody. Its leader runs the
// placement driver, which keeps nothing in memory and so may stop anywhere.
// Gossip finds nodes and wakes the driver; it decides nothing about votes.
//
// Disk and network come in through [Config]; tests put in-memory twins there
// and run whole clusters in virtual time.
package node
