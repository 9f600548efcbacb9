package transport

import (
	"context"
	"net"
	"time"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication/knowledge"
	"github.com/capstan-kv/capstan/storage"
)

const (
	// PingEvery is how long an end stays silent before it pings.
	PingEvery = 500 * time.Millisecond
	// DeadAfter is the silence after which a connection is given up: four
	// missed pings, about one election timeout.
	DeadAfter = 2 * time.Second
	// HeartbeatWindow is how long a Raft heartbeat, or the answer to one, waits
	// for those of other groups to share its frame. A leader sends the next 200
	// to 400 ms after an answer, so that both waits together still leave two or
	// three heartbeats to a leader's lease of 1.5 s; an idle node
	// wakes up a third as often as with 20 ms.
	HeartbeatWindow = 100 * time.Millisecond
	// RaftTimeout bounds one Raft RPC other than InstallSnapshot, from queue
	// to answer. A dead link fails it sooner; it must outlast a slow fsync.
	RaftTimeout = 10 * time.Second
	// MaxMessage bounds one message: 4 MiB of payload and its headers.
	MaxMessage = 4<<20 + 64<<10

	handshakeTimeout = 2 * time.Second // one handshake, either side
	dialTimeout      = 1 * time.Second // one dial, without handshake
	useMineWait      = 1 * time.Second // for the peer's dial after "use mine"
	simultaneous     = 1 * time.Second // a young own dial is kept against an incoming one
	backoffMin       = 50 * time.Millisecond
	backoffMax       = 1 * time.Second
	wantedFor        = 10 * time.Second // redial goes on so long after the last request
	maxHandshakes    = 64               // incoming handshakes at a time; more are dropped
	maxHandlers      = 1024             // running handlers of one node and class; more are answered busy
	maxPeerHandlers  = maxHandlers / 2  // of them for one peer, so that none takes the place of all others
	rejectEvery      = 10 * time.Second // one event per connection tells of refused requests
)

// Hello is what one side says of itself when a connection opens.
type Hello struct {
	// Cluster is empty while the node belongs to none.
	Cluster string
	// From is who speaks, To whom it believes to speak to.
	From, To partition.NodeID
	// Start is the number of the newest start of From that the cluster was told
	// of or is to be told of next, and Incarnation that start's random number.
	Incarnation, Start uint64
}

// Config says who the node is and how it reaches others. All funcs may be
// called concurrently and must not block, Dial excepted.
type Config struct {
	Self partition.NodeID
	// Cluster is the cluster's id; "" while the node belongs to none.
	Cluster func() string
	// Start is what this side says of its start, see [Hello]; each handshake asks
	// anew. Nil says nothing: both are 0.
	Start func() (number, incarnation uint64)
	// Listener takes peers; Close closes it. Nil: none, the node only dials.
	Listener net.Listener
	Dial     func(ctx context.Context, addr string) (net.Conn, error)
	// Resolve is the current address of a peer.
	Resolve func(partition.NodeID) (addr string, ok bool)
	// Admit judges the other side of every handshake; nil admits all. ErrPeerRemoved
	// reaches the other side as ErrRemoved, ErrPeerOutdated as ErrOutdated.
	Admit func(Hello) error
	// Member reports whether the other side of a connection belongs to the cluster, as
	// far as this node knows now; nil: all do. Who does not reaches the handlers of
	// GuestKinds, and Raft only in the groups that Guest allows: a node whose own
	// knowledge is old must hear a leader that it does not know. Nil allows none.
	Member     func(Hello) bool
	GuestKinds []uint8
	Guest      func(storage.GroupID) bool
	// Allow is a seam for deliberate cuts: false drops what goes from one node
	// to the other, as a cut cable would, and refuses new connections between
	// them. It is asked for each frame. Nil allows all. Whoever changes what it
	// answers may say so by [Transport.Sever] and [Transport.Reconnect].
	Allow func(from, to partition.NodeID) bool
	// Book keeps what the peers' replicas have shown; nil: a new one, in memory.
	Book *knowledge.Book
	// Events hears of what happens; nil: nobody. It must not block.
	Events func(Event)
}

// Event is one of [Connected], [Disconnected], [Refused], [DialFailed],
// [Rejected], [Panicked], [Refuted] and [Disowned].
type Event any

// Connected: a connection to Peer is open. Dialed says that this side did it.
type Connected struct {
	Peer   Hello
	Dialed bool
}

// Disconnected: the connection to Peer ended and none has taken its place.
type Disconnected struct {
	Peer partition.NodeID
	Err  error
}

// Refused: a handshake failed, by this side's judgement or the other's. Peer
// may be empty where the other side was not understood.
type Refused struct {
	Peer     partition.NodeID
	Incoming bool
	Err      error
}

// DialFailed: Peer was not reached; the next try follows after Backoff.
type DialFailed struct {
	Peer    partition.NodeID
	Addr    string
	Err     error
	Backoff time.Duration
}

// Rejected: a Raft request or answer of Peer was refused, because no replica of
// this build says it. Others of the next [rejectEvery] are not told.
type Rejected struct {
	Peer    partition.NodeID
	Replica storage.Replica // the one here
	Err     error
}

// Panicked: handling a message of Peer panicked. The connection was closed; the
// process goes on.
type Panicked struct {
	Peer  partition.NodeID
	Doing string
	Value any
	Stack []byte
}

// PeerMetrics counts what was exchanged with one peer since the start.
type PeerMetrics struct {
	FramesSent, FramesReceived uint64
	BytesSent, BytesReceived   uint64
	Writes                     uint64 // one may carry many frames
	Connects                   uint64
	QueueDrops                 uint64 // refused because a queue or inbox was full
	Heartbeats                 uint64 // Raft heartbeats sent
	HeartbeatFrames            uint64 // frames that carried them
}
