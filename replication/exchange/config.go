package exchange

import (
	"context"
	"errors"
	"time"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// Config is what an [Exchange] works with.
type Config struct {
	Self  partition.NodeID
	Log   *storage.Log
	Clock *hlc.Clock
	Peers Peers
	// Ring is the placement as this node knows it; nil until there is one.
	Ring func() Placement
	// Replica is this node's open replica of a partition; nil if it has none.
	Replica func(partition.ID) Replica
	// Leader is the best guess at who leads a partition; "" for nobody known.
	Leader func(partition.ID) partition.NodeID
	// Room is why this node takes no tentative writes now, or nil: deletes need
	// less of it. May be nil.
	Room func(deletes bool) error
	// Events hears what happens; may be nil.
	Events func(Event)
}

// Peers is how nodes reach each other; see replication.Peers, of which it is a
// part.
type Peers interface {
	Call(ctx context.Context, node partition.NodeID, kind uint8, payload []byte) ([]byte, error)
	Handle(kind uint8, fn func(ctx context.Context, from partition.NodeID, payload []byte) ([]byte, error))
	LastHeard(node partition.NodeID) (ago time.Duration, ok bool)
}

// Placement says where partitions are.
type Placement interface {
	Partitions() int
	Replicas(partition.ID) []partition.NodeID
	// ReplicationFactor is how many replicas a partition is to have; there may be
	// fewer for a while.
	ReplicationFactor() int
	// Nodes are the members that were not removed, this node included.
	Nodes() []partition.NodeID
	// Removed says of a node that it was removed for ever. Of one that is not
	// known yet it says no.
	Removed(partition.NodeID) bool
}

// Replica is this node's replica of a partition. Methods that read do not wait
// for anything but a disk.
type Replica interface {
	// Leads reports whether the replica leads, as far as it knows.
	Leads() bool
	// Propose replicates a command; the answer is a storage.CommandResult. Its
	// errors are those of replication.Group.Propose.
	Propose(ctx context.Context, command []byte) (any, error)
	// WaitApplied returns nil once the replica has applied index.
	WaitApplied(ctx context.Context, index uint64) error
	// Applied is the last entry whose effects are readable. PromotedHas, Promoted
	// and Forfeited know of all effects up to there.
	Applied() (index, term uint64)
	// Newest is the timestamp of the version that the replica holds for key, be
	// it a tombstone; 0 for none.
	Newest(key []byte) (hlc.Timestamp, error)
	PromotedHas(storage.Dot) bool
	// Lived is for how long the partition has had a leader, as far as is applied.
	Lived() time.Duration
	// Promoted is not changed by anybody once it was given out.
	Promoted() *storage.DotSet
	// Fate is what became of a write.
	Fate(storage.Dot) (storage.Fate, error)
	// Forfeited: what that node accepted and was not promoted is lost.
	Forfeited(partition.NodeID) bool
}

func (c *Config) check() error {
	if c.Self == "" || c.Log == nil || c.Clock == nil || c.Peers == nil || c.Ring == nil || c.Replica == nil || c.Leader == nil {
		return errors.New("exchange: Self, Log, Clock, Peers, Ring, Replica and Leader must be set")
	}
	return nil
}

const (
	// reachAge is how long a silent node still counts as reachable: links are
	// kept alive several times in that time.
	reachAge = 1500 * time.Millisecond
	// tickEvery is the mean pause between two looks at what is held: what did
	// not get on by itself is tried anew then, so this is also the age at which
	// a write concerns other holders than its accepting node.
	tickEvery = time.Second
)
