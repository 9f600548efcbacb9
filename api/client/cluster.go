package client

import (
	"context"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
)

// Status tells how one node sees the cluster.
func (c *Client) Status(ctx context.Context, opts ...CallOption) (*capstanv1.GetStatusResponse, error) {
	return invoke(ctx, c, call{op: "status"}, callSettings(opts), func(ctx context.Context, n *node) (*capstanv1.GetStatusResponse, string, error) {
		m, err := n.cluster.GetStatus(ctx, &capstanv1.GetStatusRequest{})
		return m, "", err
	})
}

// Locate tells where a key lives and where operations on it go, as one node
// sees it.
func (c *Client) Locate(ctx context.Context, key []byte, opts ...CallOption) (*capstanv1.LocateKeyResponse, error) {
	return invoke(ctx, c, call{op: "locate"}, callSettings(opts), func(ctx context.Context, n *node) (*capstanv1.LocateKeyResponse, string, error) {
		m, err := n.cluster.LocateKey(ctx, &capstanv1.LocateKeyRequest{Key: key})
		return m, "", err
	})
}

// TransferLeadership makes a node, by name or id, the leader of a partition and
// returns who leads afterwards.
func (c *Client) TransferLeadership(ctx context.Context, partition uint32, to string, opts ...CallOption) (*capstanv1.TransferLeadershipResponse, error) {
	request := &capstanv1.TransferLeadershipRequest{Partition: partition, To: to}
	return invoke(ctx, c, call{op: "transfer leadership", write: true}, callSettings(opts), func(ctx context.Context, n *node) (*capstanv1.TransferLeadershipResponse, string, error) {
		m, err := n.cluster.TransferLeadership(ctx, request)
		if err == nil {
			c.refreshSoon()
		}
		return m, "", err
	})
}

// CompareReplicas compares the replicas of a partition, byte for byte, and returns
// when that is decided. Each look at it takes as long as any other call; ctx bounds
// all of them together.
func (c *Client) CompareReplicas(ctx context.Context, partition uint32, opts ...CallOption) (*capstanv1.Comparison, error) {
	request := &capstanv1.CompareReplicasRequest{Partition: partition}
	for {
		m, err := invoke(ctx, c, call{op: "compare"}, callSettings(opts), func(ctx context.Context, n *node) (*capstanv1.CompareReplicasResponse, string, error) {
			m, err := n.cluster.CompareReplicas(ctx, request)
			return m, "", err
		})
		if err != nil || m.GetComparison().GetResult() != capstanv1.ComparisonResult_COMPARISON_RESULT_PENDING {
			return m.GetComparison(), err
		}
		request.Id = m.GetId()
	}
}

// DrainNode moves everything off a node, by name or id.
func (c *Client) DrainNode(ctx context.Context, name string, opts ...CallOption) (*capstanv1.DrainNodeResponse, error) {
	request := &capstanv1.DrainNodeRequest{Node: name}
	return invoke(ctx, c, call{op: "drain node", write: true}, callSettings(opts), func(ctx context.Context, n *node) (*capstanv1.DrainNodeResponse, string, error) {
		m, err := n.cluster.DrainNode(ctx, request)
		return m, "", err
	})
}

// RemoveNode removes a node for good, by name or id. forfeitTentative declares
// the eventual writes that only it holds lost.
func (c *Client) RemoveNode(ctx context.Context, name string, forfeitTentative bool, opts ...CallOption) (*capstanv1.RemoveNodeResponse, error) {
	request := &capstanv1.RemoveNodeRequest{Node: name, ForfeitTentative: forfeitTentative}
	return invoke(ctx, c, call{op: "remove node", write: true}, callSettings(opts), func(ctx context.Context, n *node) (*capstanv1.RemoveNodeResponse, string, error) {
		m, err := n.cluster.RemoveNode(ctx, request)
		return m, "", err
	})
}

func callSettings(opts []CallOption) settings {
	var s settings
	for _, o := range opts {
		o(&s)
	}
	return s
}
