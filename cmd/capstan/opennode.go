package main

import (
	"context"
	"errors"

	"github.com/capstan-kv/capstan/node"
)

// openNode starts a node for serve.
func openNode(ctx context.Context, config node.Config) (server, error) {
	config, unbend, err := bent(config)
	if err != nil {
		return nil, err
	}
	n, err := node.Open(ctx, config)
	if err != nil {
		return nil, errors.Join(err, unbend()) // not a nil *Node in a server
	}
	return &bentNode{n, unbend}, nil
}

// bentNode is a node on what may be a bent machine.
type bentNode struct {
	*node.Node
	unbend func() error
}

// Close lets the machine go after the node.
func (n *bentNode) Close() error { return errors.Join(n.Node.Close(), n.unbend()) }
