package client

import (
	"cmp"
	"context"
	"net"
	"net/url"
	"slices"
	"time"
)

// sameDistance is how much longer a connection may take to open to a node that
// counts as near as the nearest: more than the noise of a busy machine, less than
// the way to another region.
const sameDistance = 10 * time.Millisecond

// nearFirst orders the replicas of a partition for a call that any of them can
// answer: those as near as the nearest, then the others by distance. Of several
// that are near one is always first, so that calls about a key find at that node
// what those before them wrote; which one depends on home, so that clients and
// partitions spread over the nodes.
func nearFirst(replicas []*node, home uint32) []*node {
	if len(replicas) < 2 {
		return slices.Clone(replicas)
	}
	order := slices.Clone(replicas)
	slices.SortStableFunc(order, func(a, b *node) int { return cmp.Compare(a.distance.Load(), b.distance.Load()) })
	farthest := order[0].distance.Load() + int64(sameDistance)
	near := 1
	for near < len(order) && order[near].distance.Load() <= farthest {
		near++
	}
	first := int(home % uint32(near))
	return slices.Concat(order[first:near], order[:first], order[near:])
}

// measured has dial note how long each connection took to open: about one round
// trip.
func (c *Client) measured(dial func(context.Context, string, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		began := time.Now()
		conn, err := dial(ctx, network, address)
		if err == nil {
			c.noteDistance(address, time.Since(began))
		}
		return conn, err
	}
}

// noteDistance believes at once that a node is nearer than it seemed, and only
// half that it is farther away: opening takes longer on a busy machine, never
// less.
func (c *Client) noteDistance(address string, d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.nodes {
		if n.address != address {
			continue
		}
		if was := time.Duration(n.distance.Load()); was != 0 && was < d {
			d = was + (d-was)/2
		}
		n.distance.Store(int64(d))
	}
}

// addressOf is what is dialed for a base URL; empty if that can not be told.
func addressOf(base string) string {
	u, err := url.Parse(base)
	if err != nil {
		return ""
	}
	port := u.Port()
	if port == "" {
		port = "80"
		if u.Scheme == "https" {
			port = "443"
		}
	}
	return net.JoinHostPort(u.Hostname(), port)
}
