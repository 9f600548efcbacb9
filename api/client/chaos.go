package client

import (
	"context"

	"connectrpc.com/connect"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
)

// SetCut makes one node, given as for Via, stop talking to the nodes named, by
// name or id, and to those alone; no names: it talks to all. Clients still reach
// it. It replaces what was set before, so it may be done again after a failure.
// Only nodes that were started to allow it obey.
func (c *Client) SetCut(ctx context.Context, at string, from []string) error {
	what, request := call{op: "set cut", write: true}, &capstanv1.SetCutRequest{Nodes: from}
	if at == "" {
		return refusal(what, connect.CodeInvalidArgument, "no node named to cut off")
	}
	_, err := invoke(ctx, c, what, settings{via: at}, func(ctx context.Context, n *node) (*capstanv1.SetCutResponse, string, error) {
		m, err := n.chaos.SetCut(ctx, request)
		return m, "", err
	})
	return err
}

// GetCut names the nodes that one node, given as for Via, does not talk to.
func (c *Client) GetCut(ctx context.Context, at string) ([]string, error) {
	what := call{op: "get cut"}
	if at == "" {
		return nil, refusal(what, connect.CodeInvalidArgument, "no node named to ask")
	}
	m, err := invoke(ctx, c, what, settings{via: at}, func(ctx context.Context, n *node) (*capstanv1.GetCutResponse, string, error) {
		m, err := n.chaos.GetCut(ctx, &capstanv1.GetCutRequest{})
		return m, "", err
	})
	return m.GetNodes(), err
}
