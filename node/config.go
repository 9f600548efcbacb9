package node

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
)

// Config is all that a node needs to know before it starts. The zero value of
// a field is its default where one is named.
type Config struct {
	// Name is the node's name, unique in the cluster: 1 to 32 of a-z, 0-9 and
	// inner dashes. Required.
	Name string
	// DataDir holds everything that the node must not forget. Required.
	DataDir string
	// Cluster is the gossip label; nodes of another one are not heard.
	// Default "capstan".
	Cluster string
	// BootstrapExpect counts all initial nodes. It matters only while the data
	// directory is empty. Default 1 without Join, else 0: join, never bootstrap.
	BootstrapExpect int
	// Partitions and ReplicationFactor are set once, when the cluster is
	// bootstrapped. Defaults 16 (a power of two, at most 1024) and 3 (1 to 7).
	Partitions        int
	ReplicationFactor int
	// Zone names what fails together with this node; may be empty.
	Zone string
	// Join names gossip addresses, host or host:port, default port 7822. They
	// are resolved again and retried for ever.
	Join []string

	// Listen is the client API, ListenPeer node-to-node traffic, ListenGossip
	// serf. Defaults 127.0.0.1:7820, :7821 and :7822. Port 0 takes a free one.
	Listen, ListenPeer, ListenGossip string
	// Advertise, AdvertisePeer and AdvertiseGossip are told to others where
	// they differ from what is listened on.
	Advertise, AdvertisePeer, AdvertiseGossip string
	// Insecure allows listeners off loopback although nothing is encrypted or
	// authenticated yet.
	Insecure bool

	// MemoryLimit is what the node sizes its caches and budgets for, in bytes, at least
	// [LeastMemory]. Default [DefaultMemory].
	MemoryLimit int64
	// FileLimit is how many files and connections the process may have open. Default:
	// more than the node ever needs.
	FileLimit int
	// MaxValueSize bounds one value, in bytes. Default 1 MiB, at most 3 MiB.
	MaxValueSize int
	// MaxClockOffset bounds how far a timestamp from elsewhere moves this
	// node's clock ahead. Default 500 ms.
	MaxClockOffset time.Duration
	// EnableChaos serves ChaosService, with which whoever reaches the client API
	// cuts this node off from others: for demos, staging and tests. Default off.
	EnableChaos bool
	// Pprof serves net/http/pprof there; loopback only. Empty: off.
	Pprof string
	// Logger gets the node's log. Default: discarded.
	Logger *slog.Logger
	// LogDropped counts the lines that the logger could not write, for the
	// metrics. Default: none.
	LogDropped func() uint64

	// FS and Network are the seams to disk and network; tests put in-memory
	// twins here. Default: the machine's own.
	FS      vfs.FS
	Network Network
	// Now is the wall clock of the hybrid logical clock; besides, it dates the
	// founding of a cluster, for people.
	// Default time.Now.
	Now func() time.Time
	// Elapsed is the clock on which the age of data is measured for reads of
	// bounded staleness; see replication.HostConfig. Default: the machine's own.
	Elapsed func() time.Duration

	// beforeApply is called before entries of a partition are applied: tests
	// look at them, and hold them up there.
	beforeApply func(partition.ID, []replication.Entry)
}

// Network is how a node reaches others and is reached.
type Network interface {
	Listen(addr string) (net.Listener, error)
	ListenPacket(addr string) (net.PacketConn, error)
	Dial(ctx context.Context, addr string) (net.Conn, error)
}
