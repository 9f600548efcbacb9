package main

import (
	"context"

	"github.com/capstan-kv/capstan/node"
)

// openNode starts a node for serve.
func openNode(ctx context.Context, config node.Config) (server, error) {
	n, err := node.Open(ctx, config)
	if err != nil {
		return nil, err // not a nil *Node in a server
	}
	return n, nil
}
