package client

import (
	"context"
	"net/url"
	"strings"
	"time"

	"connectrpc.com/connect"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
)

const (
	// refreshEvery bounds how often the ring is fetched, however many calls
	// fail at once.
	refreshEvery = 250 * time.Millisecond
	// refreshTimeout bounds the question to one node.
	refreshTimeout = 2 * time.Second
	// refreshNodes bounds how many nodes one refresh asks.
	refreshNodes = 5
	// avoidFor is how long a node that refused a connection is asked last.
	avoidFor = time.Second
	// avoidMost bounds how long, however often it failed.
	avoidMost = 30 * time.Second
)

// ring is what one node said about the cluster. It never changes; a newer one
// replaces it.
type ring struct {
	nodes      []*node          // in the cluster's order
	byName     map[string]*node // by name and by id
	partitions []ringPartition
}

type ringPartition struct {
	leader   *node // nil: unknown
	replicas []*node
}

// ringOf builds the ring from a status answer. Nodes that are known already
// keep their identity, and with it what the client remembers of them.
func (c *Client) ringOf(m *capstanv1.GetStatusResponse) (*ring, error) {
	if !powerOfTwo(len(m.GetPartitions())) {
		return nil, errMalformed
	}
	r := &ring{byName: make(map[string]*node), partitions: make([]ringPartition, len(m.GetPartitions()))}
	for _, n := range m.GetNodes() {
		base, err := baseURL(n.GetApiAddress())
		if err != nil {
			continue // a node without an address that can be asked
		}
		known := c.nodeAt(base)
		r.byName[n.GetName()], r.byName[n.GetId()] = known, known
		if n.GetState() != capstanv1.NodeState_NODE_STATE_LEFT {
			r.nodes = append(r.nodes, known)
		}
	}
	delete(r.byName, "")
	seen := make([]bool, len(r.partitions))
	for _, p := range m.GetPartitions() {
		if int(p.GetId()) >= len(r.partitions) || seen[p.GetId()] {
			return nil, errMalformed
		}
		seen[p.GetId()] = true
		at := &r.partitions[p.GetId()]
		at.leader = r.byName[p.GetLeader()]
		for _, replica := range p.GetReplicas() {
			if n := r.byName[replica.GetNode()]; n != nil {
				at.replicas = append(at.replicas, n)
			}
		}
	}
	return r, nil
}

// baseURL makes host:port, or a URL, the base of calls.
func baseURL(address string) (string, error) {
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	u, err := url.Parse(address)
	if err != nil {
		return "", err
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return "", &url.Error{Op: "parse", URL: address, Err: errNotEndpoint}
	}
	return strings.TrimSuffix(u.String(), "/"), nil
}

// Refresh fetches the ring and waits for it. Calls do so by themselves, in the
// background; a program that wants its first call to go straight to the right
// node may begin with it.
func (c *Client) Refresh(ctx context.Context) error {
	if err := c.open("refresh"); err != nil {
		return err
	}
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	return c.fetchRing(ctx)
}

// fetchRing asks one node after the other until one knows the ring.
func (c *Client) fetchRing(ctx context.Context) error {
	what := call{op: "status"}
	var last *Error
	for _, n := range c.anyNodes(refreshNodes) {
		one, cancel := context.WithTimeout(ctx, refreshTimeout)
		m, err := n.cluster.GetStatus(one, &capstanv1.GetStatusRequest{})
		cancel()
		if err == nil {
			var r *ring
			if r, err = c.ringOf(m); err == nil {
				c.install(r)
				return nil
			}
		}
		last = errorOf(what, err)
		last.Endpoint = n.base
		n.note(last)
		if ctx.Err() != nil {
			break
		}
	}
	return last
}

// install makes r the ring and forgets nodes that neither it nor the options
// name.
func (c *Client) install(r *ring) {
	c.ring.Store(r)
	keep := make(map[*node]bool, len(r.byName)+len(c.seeds))
	for _, n := range r.byName {
		keep[n] = true
	}
	for _, n := range c.seeds {
		keep[n] = true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for base, n := range c.nodes {
		if !keep[n] {
			delete(c.nodes, base)
		}
	}
}

// refreshSoon fetches the ring in the background: one fetch at a time, and not
// more often than refreshEvery.
func (c *Client) refreshSoon() {
	if c.noRing {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.refreshing || (!c.refreshed.IsZero() && time.Since(c.refreshed) < refreshEvery) {
		return
	}
	c.refreshing, c.refreshed = true, time.Now()
	c.background.Go(func() {
		_ = c.fetchRing(c.ctx) // calls go on with the ring there is
		c.mu.Lock()
		defer c.mu.Unlock()
		c.refreshing = false
	})
}

// resolve finds the node that Via names.
func (c *Client) resolve(ctx context.Context, what call, via string) (*node, *Error) {
	if strings.ContainsAny(via, ":/") {
		base, err := baseURL(via)
		if err != nil {
			return nil, refusal(what, connect.CodeInvalidArgument, "via %q is neither a node's name nor an endpoint", via)
		}
		return c.nodeAt(base), nil
	}
	if r := c.ring.Load(); r != nil && r.byName[via] != nil {
		return r.byName[via], nil
	}
	if err := c.fetchRing(ctx); err != nil {
		e := refusal(what, connect.CodeUnavailable, "no node can be asked where %s is: %v", via, err)
		e.Try = "the URL of the node instead of its name"
		e.Err = err
		return nil, e
	}
	r := c.ring.Load()
	if n := r.byName[via]; n != nil {
		return n, nil
	}
	return nil, refusal(what, connect.CodeInvalidArgument, "the cluster has no node %q", via)
}
