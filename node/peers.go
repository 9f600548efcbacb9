package node

import (
	"context"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication/transport"
)

// peers is the transport as the replicas' host uses it.
type peers struct{ *transport.Transport }

// Handle sets who answers messages of a kind.
func (p peers) Handle(kind uint8, fn func(context.Context, partition.NodeID, []byte) ([]byte, error)) {
	p.Transport.Handle(kind, fn)
}
