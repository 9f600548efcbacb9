package api

import "time"

// Limits of the public face. They are promises: clients rely on them.
const (
	// MaxKeySize bounds a key, in bytes; the least is 1.
	MaxKeySize = 4 << 10
	// DefaultMaxValueSize bounds a value, in bytes, unless configured.
	DefaultMaxValueSize = 1 << 20
	// MaxMaxValueSize is the most that the bound on values can be raised to: a
	// value, its key and a session token fit into one message with room to spare.
	MaxMaxValueSize = 3 << 20
	// MaxTokenSize bounds a session token or a receipt, in bytes; of several
	// session tokens given as one, all of them together.
	MaxTokenSize = 6 << 10
	// TokenSeparator stands between session tokens that are given as one: the
	// session is then all of theirs. It occurs in no token.
	TokenSeparator = "."
	// MaxMessageSize bounds one message in either direction, in bytes, after
	// decompression.
	MaxMessageSize = 4 << 20
	// MaxBatchOps bounds the operations of one Batch: enough to spread its cost
	// thin, few enough that one call does not hold the node for long.
	MaxBatchOps = 1024
	// MaxAcks and MaxReplicas are the largest replication factor there is.
	MaxAcks     = 7
	MaxReplicas = 7
	// MaxCutNodes bounds the names in one SetCut: more than any cluster for show.
	MaxCutNodes = 256
	// MaxAwait bounds AwaitWriteRequest.wait.
	MaxAwait = 60 * time.Second
	// DefaultTimeout is the deadline of a request that came without one.
	DefaultTimeout = 5 * time.Second
	// MaxTimeout cuts longer deadlines short, but for streams, which may take as
	// long as they get on: nobody waits for a single operation any longer, and
	// a forgotten request must not stay for ever.
	MaxTimeout = 2 * time.Minute
)

const (
	// batchConcurrency bounds the operations of one Batch in flight at once:
	// enough to fill the replication batches of all partitions.
	batchConcurrency = 64
	// compressMinBytes is the size from which a response is compressed for
	// clients that accept it: below, it costs more than the bytes it saves.
	compressMinBytes = 8 << 10
	// wireOverhead is what a request may have beside its message on the wire:
	// envelopes, and the little that compression adds to random bytes.
	wireOverhead = 64 << 10

	// bodyPatience is how long a client may send nothing of a body. Each 4 KiB that
	// come are progress, so a client that sends 1 KiB per second is never cut off.
	bodyPatience = 20 * time.Second
	// bodyPressed is the same while others need the room.
	bodyPressed = time.Second
	// answerPatience is how long a client may take nothing of an answer. Each 16 KiB
	// that it takes are progress. The kernel passes on what a client reads in lumps of
	// up to 64 KiB, so a client that reads 2 KiB per second is never cut off.
	answerPatience = 60 * time.Second
	// answerPressed is the same while others need the room.
	answerPressed = 5 * time.Second
	// streamPatience bounds how long a health watch or a reflection stream stays open.
	streamPatience = 10 * time.Minute
	// drainTimeout bounds the wait for the rest of a body that nobody reads.
	drainTimeout = time.Second
	// writeTimeout bounds the time from a request to its answer where that is small.
	// Requests that may take longer move it.
	writeTimeout = 60 * time.Second

	// freeBody, freeAnswer and freePiece, in bytes, are not counted: small requests and
	// answers find room whatever others hold. The answer to a write is below freeAnswer:
	// it must not be refused once the write is done.
	freeBody   = 4 << 10
	freeAnswer = 16 << 10
	freePiece  = 4 << 10
	// answerPiece is written at a time, in bytes: each one that has gone is progress.
	answerPiece = 16 << 10
	// defaultBudgetBytes and defaultRequests are for a handler that was not given
	// budgets.
	defaultBudgetBytes = 64 << 20
	defaultRequests    = 4096
	// ownerShare: one connection may hold a quarter of a budget, and in any case one
	// message of the largest size, decoded (leastOwnerBytes).
	ownerShare      = 4
	leastOwnerBytes = 4 * MaxMessageSize
	// idleForRoom is how long a connection must have been idle before it is closed to
	// make room for another one.
	idleForRoom = time.Second
	// maxStreams and maxStreamsPerConnection bound RPCs that last as long as the client
	// likes: health watches and reflection.
	maxStreams              = 256
	maxStreamsPerConnection = 16
	// maxStreamBody bounds all that a client sends on one of those, in bytes.
	maxStreamBody = 256 << 10

	readHeaderTimeout = 10 * time.Second // a slow header holds a connection, nothing else
	idleTimeout       = 2 * time.Minute  // longer than clients keep idle connections
	// maxHeaderBytes has room for a key of 4 KiB that is percent-encoded
	// throughout (12 KiB), a session token, and a Connect GET with both.
	maxHeaderBytes = 64 << 10
	// maxConcurrentStreams is per connection. Go's client opens another connection
	// beyond it.
	maxConcurrentStreams = 1024
	pingAfter            = 30 * time.Second // an HTTP/2 peer that is silent so long is asked
	pingTimeout          = 15 * time.Second // and given up when it does not answer
)
