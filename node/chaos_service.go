package node

import (
	"context"
	"slices"
	"time"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/node/membership"
	"github.com/capstan-kv/capstan/partition"
)

// cutReminder is how often a node that is cut off on purpose says so in its log:
// somebody who looks into it for another reason should see it soon.
const cutReminder = time.Minute

// chaosService answers api.Chaos, at a node with Config.EnableChaos.
type chaosService struct{ node *Node }

// SetCut replaces the cut there is; the same again changes nothing. When it returns
// nothing passes any more, and where a cut was healed connections are under way.
func (c chaosService) SetCut(_ context.Context, req *capstanv1.SetCutRequest) (*capstanv1.SetCutResponse, error) {
	nodes := make([]partition.NodeID, 0, len(req.GetNodes()))
	for _, idOrName := range req.GetNodes() {
		id, ok := c.node.find(idOrName)
		switch {
		case !ok:
			return nil, badOption("there is no node %q", idOrName)
		case id == c.node.id:
			return nil, badOption("%s cannot be cut off from itself", idOrName)
		}
		nodes = append(nodes, id)
	}
	return &capstanv1.SetCutResponse{}, c.node.setCut(nodes)
}

// GetCut names those that the node was told not to talk to.
func (c chaosService) GetCut(context.Context, *capstanv1.GetCutRequest) (*capstanv1.GetCutResponse, error) {
	return &capstanv1.GetCutResponse{Nodes: c.node.cutNames()}, nil
}

// find is the node that an id or a name means, of those that have not left.
func (n *Node) find(idOrName string) (partition.NodeID, bool) {
	if known, ok := named(n.ring(), idOrName); ok && known.State != control.Left {
		return known.ID, true
	}
	if idOrName == n.config.Name || idOrName == string(n.id) {
		return n.id, true
	}
	// One that gossip knows and the cluster not yet.
	for _, member := range n.members.Members() {
		if member.Status != membership.StatusLeft && (member.Name == idOrName || string(member.ID) == idOrName) {
			return member.ID, true
		}
	}
	return "", false
}

func (n *Node) setCut(nodes []partition.NodeID) error {
	n.cutting.Lock()
	defer n.cutting.Unlock()
	n.learnAddresses()
	_, began := n.cuts.Cut()
	cut, healed, err := n.cuts.Set(nodes, time.Now())
	if err != nil {
		return err
	}
	for _, node := range cut {
		n.transport.Sever(node)
	}
	for _, node := range healed {
		n.transport.Reconnect(node)
	}
	if len(healed) > 0 {
		n.members.Rejoin(n.gossipAddresses(healed))
	}
	switch {
	case len(cut)+len(healed) == 0:
	case len(nodes) == 0:
		n.journal.log.Warn("CHAOS: the network cut is healed: this node talks to all others again",
			"after", time.Since(began).Round(time.Millisecond))
	default:
		n.journal.log.Warn("CHAOS: the network is cut on purpose: this node talks to others no more, clients still reach it",
			"cut_from", n.cutNames())
	}
	return nil
}

// remindOfCut says now and then that the node is cut off on purpose.
func (n *Node) remindOfCut() {
	n.journal.log.Warn("CHAOS: enabled: whoever reaches the client API may cut this node off from others")
	for {
		changed := n.cuts.Changed()
		var remind <-chan time.Time // never, while there is no cut
		nodes, since := n.cuts.Cut()
		if len(nodes) > 0 {
			remind = time.After(cutReminder)
		}
		select {
		case <-changed:
		case <-remind:
			n.journal.log.Warn("CHAOS: the network is still cut on purpose",
				"cut_from", n.cutNames(), "for", time.Since(since).Round(time.Second))
		case <-n.ctx.Done():
			return
		}
	}
}

// cutFor is how long this node has been cut off from anybody.
func (n *Node) cutFor() time.Duration {
	if n.cuts == nil {
		return 0
	}
	_, since := n.cuts.Cut()
	if since.IsZero() {
		return 0
	}
	return time.Since(since)
}

// cutFrom is whom this node was told not to talk to, in order.
func (n *Node) cutFrom() []partition.NodeID {
	if n.cuts == nil {
		return nil
	}
	nodes, _ := n.cuts.Cut()
	return nodes
}

func (n *Node) cutNames() []string { return namesOf(n.ring(), n.cutFrom()) }

// reachable is gossip's view of who is alive, and this node itself, without those
// that it is cut off from on purpose: gossip takes a while to notice.
func (n *Node) reachable() map[partition.NodeID]bool {
	reachable := n.alive()
	reachable[n.id] = true
	for _, node := range n.cutFrom() {
		delete(reachable, node)
	}
	return reachable
}

// learnAddresses tells the cuts where gossip reaches the nodes: by their own word,
// else as the ring has it.
func (n *Node) learnAddresses() {
	if n.cuts == nil {
		return
	}
	at := map[partition.NodeID]string{n.id: n.addresses.gossip}
	for _, known := range n.ring().Nodes {
		if known.State != control.Left && known.ID != n.id {
			at[known.ID] = known.Gossip
		}
	}
	for _, member := range n.members.Members() {
		if member.Status != membership.StatusLeft {
			at[member.ID] = member.GossipAddr
		}
	}
	n.cuts.Learn(at)
}

func (n *Node) gossipAddresses(of []partition.NodeID) []string {
	var addresses []string
	for _, member := range n.members.Members() {
		if slices.Contains(of, member.ID) {
			addresses = append(addresses, member.GossipAddr)
		}
	}
	return addresses
}
