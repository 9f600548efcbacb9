// Package client is the Go client of a Capstan cluster.
//
//	c, err := client.New(client.Options{Endpoints: []string{"http://127.0.0.1:7820"}})
//	...
//	defer c.Close()
//	put, err := c.Put(ctx, []byte("cart:42"), []byte("apple"))
//	got, err := c.Get(ctx, []byte("cart:42"))
//
// It owns five things: where a call goes, what is tried again, what an error
// means, the session, and the connections.
//
// # Where a call goes
//
// The client fetches the ring (nodes, partitions, leaders) in the background,
// hashes a key as the cluster does, and goes straight to the leader of the
// key's partition. While it does not know better, any node will do: a node
// forwards what it does not lead. A failure, a hint in an error and an answer
// by another node than the one asked each make it fetch the ring anew, at most
// every 250 ms. [Via] turns all of this off: that node alone is asked, once.
//
// What needs no leader ([Eventual], [Bounded]) goes to a near replica: one to
// which a connection opens in at most 10 ms more than to the nearest. Of several
// it is always the same one for a partition, so that a session finds there what
// it wrote; another client may prefer another one. A definite refusal (that node
// reaches too few others, or has not heard yet what the session saw) is taken
// to the next node at once.
//
// # What is tried again
//
// A read has no effect, so any failure of the way to a node is tried again
// elsewhere. A write is tried again only after a definite failure: the node
// said that it was not applied, or no connection came about so that nothing
// was sent. After a refusal for want of a quorum it goes only to a node that
// answers a question first: a frozen one would make its outcome unknown. Attempts are bounded ([Options.MaxAttempts]), wait with
// exponential backoff and full jitter, and never outlive the context. Nothing
// in this package retries a write whose outcome is unknown.
//
// # The session
//
// A client is a session: each call sees at least what the calls before it, those
// that had returned when it began, saw and wrote, on any node and at any level.
// It carries the tokens of their answers. Calls at the same time each answer with
// a token; they are sent side by side until one answer's token replaces them,
// and merged by the cluster where they would not fit into a request. That costs
// an eventual read no quorum, but it may fail (ErrSessionBehind) where no node
// within reach has what the session saw; [NoSession] takes any answer.
//
// A program that serves many users gives each a session of its own: [Session]
// with the token of the user's last answer, empty for the first. [Client.Session]
// hands the client's own session on to another process, [Options.Session] takes
// it up. If the cluster does not know a carried token (it was made anew), the
// call fails with ErrBadToken, not applied, and the session begins anew.
//
// # Eventual writes
//
// An eventual write is answered with a receipt before its fate is known.
// [Client.AwaitWrite] tells it; [Client.Conflicts] lists the writes that lost.
//
// # What an error means
//
// Every failed call returns an [*Error]. [IsNotApplied] and
// [IsOutcomeUnknown] answer the one question that matters after a write. An
// answer without the cluster's error detail (a proxy's, a cut connection's)
// leaves the outcome of a write unknown, whatever its code.
//
// The package imports the generated code, connect and xxhash, nothing else of
// Capstan: the rule from key to partition is part of the public contract and
// small enough to stand here once more (partition.go).
package client
