// Package client is the Go client of a Capstan cluster.
//
//	c, err := client.New(client.Options{Endpoints: []string{"http://127.0.0.1:7820"}})
//	...
//	defer c.Close()
//	put, err := c.Put(ctx, []byte("cart:42"), []byte("apple"))
//	got, err := c.Get(ctx, []byte("cart:42"))
//
// It owns four things: where a call goes, what is tried again, what an error
// means, and the connections.
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
// # What is tried again
//
// A read has no effect, so any failure of the way to a node is tried again
// elsewhere. A write is tried again only after a definite failure: the node
// said that it was not applied, or no connection came about so that nothing
// was sent. Attempts are bounded ([Options.MaxAttempts]), wait with
// exponential backoff and full jitter, and never outlive the context. Nothing
// in this package retries a write whose outcome is unknown.
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
