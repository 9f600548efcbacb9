package node

import (
	"context"
	"fmt"
	"sync"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/replication/transport"
)

// startGate keeps a start from promising anything before the cluster has registered
// it: until then the data directory may be an older copy, whose promises others
// have seen broken. Only what registration needs works behind a closed gate: the
// control group, gossip, formation and status.
type startGate struct {
	peers  peers
	opened chan struct{} // closed by open

	mu       sync.Mutex
	handlers map[uint8]func(context.Context, partition.NodeID, []byte) ([]byte, error) // nil once open
}

func newGate(p peers) *startGate {
	return &startGate{
		peers: p, opened: make(chan struct{}),
		handlers: map[uint8]func(context.Context, partition.NodeID, []byte) ([]byte, error){},
	}
}

// open lets everything through, for good. It is called once.
func (g *startGate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for kind, fn := range g.handlers {
		g.peers.Handle(kind, fn)
	}
	g.handlers = nil
	close(g.opened)
}

func (g *startGate) isOpen() bool {
	select {
	case <-g.opened:
		return true
	default:
		return false
	}
}

// refusal is why this node serves nothing yet, or nil.
func (g *startGate) refusal() error {
	if g.isOpen() {
		return nil
	}
	return &replication.Error{
		Reason: replication.NoReplica, Outcome: replication.NotApplied,
		Message: "this start is not registered with the cluster yet", Try: "another node, or again when /readyz answers 200",
	}
}

// gated is the transport as those use it who serve partitions.
type gated struct {
	peers
	gate *startGate
}

// Handle answers messages of a kind once the gate is open. Until then other nodes
// are told, definitely, that nobody handles them.
func (p gated) Handle(kind uint8, fn func(context.Context, partition.NodeID, []byte) ([]byte, error)) {
	p.gate.mu.Lock()
	defer p.gate.mu.Unlock()
	if p.gate.handlers == nil {
		p.peers.Handle(kind, fn)
		return
	}
	p.gate.handlers[kind] = fn
}

func (p gated) Call(ctx context.Context, to partition.NodeID, kind uint8, payload []byte) ([]byte, error) {
	if !p.gate.isOpen() {
		return nil, fmt.Errorf("%w: this start is not registered with the cluster yet", transport.ErrUnreachable)
	}
	return p.peers.Call(ctx, to, kind, payload)
}
