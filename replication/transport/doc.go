// Package transport carries all that nodes say to each other on their hot
// paths: the Raft messages of every group and the node's own calls, over one
// connection a peer pair that serves both directions.
//
// # Connection
//
// A connection opens with a handshake ([Hello]): protocol version, cluster,
// both node ids, incarnation and start counter, judged on both sides. A new
// connection of a peer replaces the older one, except when both dial at once:
// then the dial of the smaller node id wins, and the other side is told "use
// mine" and waits for it. An idle end says something every [PingEvery]; an end
// that hears nothing for [DeadAfter] drops the connection. A lost connection
// is dialed again, with exponential backoff, while somebody wants the peer.
//
// # Frames
//
// A message is split into chunks of at most 128 KiB, each a frame with a
// fixed header and a CRC-32C. There are three classes, each first in first
// out with a bounded queue: control (votes, heartbeats, answers, calls of low
// kinds) overtakes bulk (log entries, other calls) overtakes snapshots. One
// writer a connection takes whatever is queued into one write; nothing waits
// for a timer, save heartbeats, which wait [HeartbeatWindow] for those of
// other groups. The reader never waits: inboxes are bounded and answer "busy".
//
// # Raft
//
// [Transport.Group] gives one replica its raft.Transport. A Raft server id is
// "<node id>/<generation>"; every request names sender and target generation,
// and one for a generation that is not open here is answered [ErrNoReplica].
// SetHeartbeatHandler does nothing: in hashicorp/raft v1.8 a heartbeat handled
// beside the main loop can make logs diverge (hashicorp/raft issue 695), so
// heartbeats go through the consumer like everything else.
//
// # What is checked before Raft sees it
//
// Each request and answer is checked on arrival (check.go, package logcheck): types,
// indexes, terms, configurations, and whether the state machine can decode the
// commands. A request that fails is answered [ErrRefused], and an event tells of it.
//
// A panic while a message is decoded, checked or handled closes the connection
// ([Panicked]); the process goes on. Not contained are panics on the Raft library's
// own goroutines and in the state machine's Apply, where the log or the state may be
// half changed. A node that has such a panic ends, and reads its disk again.
//
// # Errors
//
// [ErrUnreachable], [ErrBusy], [ErrRefused], [ErrNoReplica] and [ErrNoHandler] are definite:
// the other side has not acted and will not. [ErrLost] is indefinite. A
// [RemoteError] is the handler's own.
//
// The layout of frames follows the usual length-prefixed practice of
// hashicorp/raft's NetworkTransport, with a binary encoding in place of its
// msgpack.
package transport
