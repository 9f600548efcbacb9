package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"syscall"
	"time"

	"connectrpc.com/connect"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/api/client"
)

const (
	// settlePoll is how often nodes are asked how far they are.
	settlePoll = 50 * time.Millisecond
	// viewTimeout bounds one such question, so that a node that hangs does not
	// hold up the others for long.
	viewTimeout = time.Second
	// cutMetric is how long a node has been cut off from anybody.
	cutMetric = "capstan_chaos_cut_seconds"
)

// lab is a cluster whose network is cut: each node is asked and told by itself,
// at its own API, since nodes cannot pass on what is said across a cut.
type lab struct {
	c          *client.Client
	nodes      []*capstanv1.Node
	partitions int
	meter      meter
}

// findNodes asks any node for all of them.
func findNodes(ctx context.Context, c *client.Client) (*lab, error) {
	s, err := c.Status(ctx)
	if err != nil {
		return nil, err
	}
	l := &lab{c: c, partitions: len(s.GetPartitions()), meter: newMeter()}
	for _, n := range s.GetNodes() {
		if n.GetState() != capstanv1.NodeState_NODE_STATE_LEFT {
			l.nodes = append(l.nodes, n)
		}
	}
	return l, nil
}

func (l *lab) names() []string {
	var names []string
	for _, n := range l.nodes {
		names = append(names, n.GetName())
	}
	return names
}

// each runs f for all nodes at once.
func each(nodes []*capstanv1.Node, f func(i int, n *capstanv1.Node)) {
	var wait sync.WaitGroup
	for i, n := range nodes {
		wait.Go(func() { f(i, n) })
	}
	wait.Wait()
}

// errNoAddress is of a node whose API address nobody knows.
var errNoAddress = errors.New("its API address is not known")

// cutOf asks one node whom it is cut off from.
func (l *lab) cutOf(ctx context.Context, n *capstanv1.Node) ([]string, error) {
	if n.GetApiAddress() == "" {
		return nil, failuref("%s: %w", n.GetName(), errNoAddress)
	}
	from, err := l.c.GetCut(ctx, n.GetApiAddress())
	return from, about(n, err)
}

// away reports whether an error only says that a node is down.
func away(n *capstanv1.Node, err error) bool {
	var e *client.Error
	if errors.Is(err, errNoAddress) || errors.Is(err, syscall.ECONNREFUSED) {
		return true // a node that was killed a moment ago is still shown as alive
	}
	return n.GetState() == capstanv1.NodeState_NODE_STATE_DEAD && errors.As(err, &e) && e.Info == nil &&
		(e.Code == connect.CodeUnavailable || e.Code == connect.CodeDeadlineExceeded)
}

// about puts a node's name before what it said.
func about(n *capstanv1.Node, err error) error {
	var e *client.Error
	if !errors.As(err, &e) {
		return err
	}
	if e.Code == connect.CodeUnimplemented {
		return failuref("%s was not started with --enable-chaos", n.GetName()).hint("capstan demo, or capstan serve --enable-chaos")
	}
	told := *e
	told.Message = n.GetName() + ": " + e.Message
	return &told
}

// without names the nodes that are not among some.
func (l *lab) without(some []*capstanv1.Node) []string {
	names := []string{}
	for _, n := range l.nodes {
		if !slices.Contains(some, n) {
			names = append(names, n.GetName())
		}
	}
	return names
}

// tell has each node stop talking to those that from names for it, and to no
// others. If only some were told, the outcome is unknown: a cut that holds one way.
func (l *lab) tell(ctx context.Context, nodes []*capstanv1.Node, from map[string][]string) error {
	failures := make([]error, len(nodes))
	each(nodes, func(i int, n *capstanv1.Node) {
		failures[i] = about(n, l.c.SetCut(ctx, n.GetApiAddress(), from[n.GetName()]))
	})
	at := slices.IndexFunc(failures, func(err error) bool { return err != nil })
	if at < 0 {
		return nil
	}
	var e *client.Error
	if errors.As(failures[at], &e) && slices.Contains(failures, nil) {
		e.Outcome = capstanv1.Outcome_OUTCOME_UNKNOWN
	}
	return failures[at]
}

// nodeCut is whom one node is cut off from.
type nodeCut struct {
	Node    string   `json:"node"`
	Reached bool     `json:"reached"`
	From    []string `json:"cutFrom"`
	Seconds *float64 `json:"cutSeconds"` // null: not known
}

// cuts asks every node, before any of them is told anything: one that is down need
// not be told, one that is up and does not obey is an error. Those that answered
// are reached.
func (l *lab) cuts(ctx context.Context) (cuts []nodeCut, reached []*capstanv1.Node, err error) {
	cuts = make([]nodeCut, len(l.nodes))
	failures := make([]error, len(l.nodes))
	each(l.nodes, func(i int, n *capstanv1.Node) {
		c := nodeCut{Node: n.GetName(), From: []string{}}
		var from []string
		if from, failures[i] = l.cutOf(ctx, n); failures[i] == nil {
			c.Reached = true
			c.From = append(c.From, from...)
			if seconds, err := l.meter.readNode(ctx, n.GetApiAddress(), cutMetric); err == nil && len(from) > 0 {
				c.Seconds = &seconds
			}
		}
		cuts[i] = c
	})
	for i, n := range l.nodes {
		switch {
		case failures[i] == nil:
			reached = append(reached, n)
		case !away(n, failures[i]):
			return nil, nil, failures[i]
		}
	}
	if len(reached) == 0 {
		return nil, nil, failuref("no node can be reached").hint("capstan status")
	}
	return cuts, reached, nil
}

// until asks nodes how they see the cluster, again and again, until all of them
// answer and done is content, or the time is up. Silent are those that did not answer
// the last time.
func (l *lab) until(ctx context.Context, most time.Duration, nodes []*capstanv1.Node, done func(views) bool) (silent []string, ok bool) {
	deadline := time.Now().Add(most)
	tick := time.NewTicker(settlePoll)
	defer tick.Stop()
	for {
		seen := l.look(ctx, nodes)
		silent = []string{}
		for _, n := range nodes {
			if seen[n.GetName()] == nil {
				silent = append(silent, n.GetName())
			}
		}
		if done(seen) && len(silent) == 0 {
			return silent, true
		}
		if time.Now().After(deadline) {
			return silent, false
		}
		select {
		case <-ctx.Done():
			return silent, false
		case <-tick.C:
		}
	}
}

func (l *lab) look(ctx context.Context, nodes []*capstanv1.Node) views {
	ctx, cancel := context.WithTimeout(ctx, viewTimeout)
	defer cancel()
	answers := make([]*capstanv1.GetStatusResponse, len(nodes))
	each(nodes, func(i int, n *capstanv1.Node) {
		answers[i], _ = l.c.Status(ctx, client.Via(n.GetApiAddress())) // nil: silent
	})
	seen := make(views)
	for i, n := range nodes {
		if answers[i] != nil {
			seen[n.GetName()] = answers[i]
		}
	}
	return seen
}
