package node

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/node/formation"
	"github.com/capstan-kv/capstan/node/identity"
	"github.com/capstan-kv/capstan/node/membership"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/replication/transport"
	"github.com/capstan-kv/capstan/storage"
)

const (
	// registerFirstRetry and registerLastRetry bound the pause between two attempts
	// to register.
	registerFirstRetry = 100 * time.Millisecond
	registerLastRetry  = 2 * time.Second
	// leaderLook is the pause between two looks whether the control group has a
	// leader: clients wait meanwhile, and a look asks nobody.
	leaderLook = 20 * time.Millisecond
)

// openControl opens this node's replica of the control group if it has one:
// if it belongs to a cluster, or was stopped in the middle of founding one.
func (n *Node) openControl() error {
	founding, err := n.wasFounding()
	if err != nil {
		return err
	}
	if founding || n.identity.Initialised() {
		return n.startControl(founding)
	}
	return nil
}

// wasFounding reports whether this node made a control group and was stopped
// before its identity said so. Only a founder opens the control group first:
// who joins belongs to the cluster by then.
func (n *Node) wasFounding() (bool, error) {
	if n.identity.Initialised() {
		return false, nil
	}
	marks, err := n.log.Replica(controlReplica)
	if err != nil {
		return false, err
	}
	if marks.LastIndex() > 0 {
		return true, nil
	}
	_, err = marks.Get(boltMark)
	if errors.Is(err, storage.ErrLogNotFound) {
		return false, nil
	}
	return err == nil, err
}

// startControl opens the control group's replica and all that follows it. A
// founder makes the group, as its single voter.
func (n *Node) startControl(founder bool) error {
	machine, err := openControlMachine(n.state.Blob(controlReplica), n.state.Sync)
	if errors.Is(err, storage.ErrStateDamaged) {
		// Its log has it too, but for a very old cluster's; openGroup sees to that.
		n.journal.log.Error("the stored ring is damaged: it is made from the control group's log again", "err", err)
		if err = n.state.Discard([]storage.Replica{controlReplica}, nil); err == nil {
			machine, err = openControlMachine(n.state.Blob(controlReplica), n.state.Sync)
		}
	}
	if err != nil {
		return err
	}
	var bootstrap []replication.Member
	if founder {
		bootstrap = []replication.Member{{Node: n.id, Generation: controlGeneration}}
	}
	parts, err := n.replicas.opener.openGroup(controlReplica, machine, bootstrap, founder)
	if errors.Is(err, errStateBehindLog) {
		return fmt.Errorf("%w: empty the whole data directory to come back as a new node", err)
	}
	if err != nil {
		return err
	}
	n.control = &controlGroup{groupParts: parts, self: n.id, machine: machine, peers: n.transport}
	close(n.controlUp)
	n.transport.Handle(kindControl, n.control.handle)
	n.tasks.Go(n.watchRing)
	n.tasks.Go(func() {
		(&driver{
			self: n.id, registered: n.gate.opened, control: n.control, expect: n.config.BootstrapExpect, alive: n.alive, ask: n.askStatus,
			transfer: n.transferLeader, wake: n.gossipChanged, log: n.config.Logger,
		}).run(n.ctx)
	})
	return nil
}

// ring is what this node knows of the cluster; empty while it has none.
func (n *Node) ring() *control.State {
	select {
	case <-n.controlUp:
		return n.control.machine.current()
	default:
		return &control.State{}
	}
}

// watchRing opens the replicas that the ring gives to this node, once this start
// is registered, and hangs up on nodes that the ring does not admit any more.
func (n *Node) watchRing() {
	for registered := n.gate.opened; ; {
		changed := n.control.machine.watch()
		ring := n.control.machine.current()
		if reason := n.replaced(ring); reason != "" {
			n.refuse(n.id, reason)
			return
		}
		n.transport.Readmit()
		if n.gate.isOpen() {
			registered = nil
			if err := n.replicas.follow(ring); err != nil {
				if n.ctx.Err() == nil {
					n.fail(err)
				}
				return
			}
		}
		select {
		case <-changed:
		case <-registered:
		case <-n.ctx.Done():
			return
		}
	}
}

// replaced says why the ring has no place for this process any more, or nothing.
func (n *Node) replaced(ring *control.State) string {
	known, ok := ring.Node(n.id)
	switch own := n.identity.Registered(); {
	case !ok:
		return ""
	case known.State == control.Left:
		return fmt.Sprintf("node %s was removed from the cluster", n.id)
	case n.gate.isOpen() && known.StartCounter > own.Number:
		// This start is registered, and a later one is too: its process found a
		// record of this start.
		return fmt.Sprintf("start %d of node %s was registered while start %d runs: another process runs on a copy of this directory",
			known.StartCounter, n.id, own.Number)
	}
	return ""
}

// belong brings the node to its cluster, tells the cluster of this start, and
// begins to serve.
func (n *Node) belong() {
	err := n.findCluster()
	if err == nil {
		err = n.register(n.identity.ClusterID(), n.proposeUntilAnswered)
	}
	if err == nil {
		err = n.replicas.follow(n.control.machine.current())
	}
	if err != nil {
		if n.ctx.Err() == nil {
			n.fail(err)
		}
		return
	}
	n.gate.open()
}

// findCluster returns once the node belongs to a cluster: the one it belonged
// to before, one that it joins, or one that it founds with the others.
func (n *Node) findCluster() error {
	former, err := formation.NewCoordinator(formation.Config{
		Self: n.id, Expect: n.config.BootstrapExpect, ClusterID: n.identity.ClusterID(),
		View: n.formationView, Changes: n.gossipForming, Ask: n.askPromise, Events: n.journal.formation,
	})
	if err != nil {
		return err
	}
	if n.control != nil && !n.identity.Initialised() {
		// Stopped in the middle of founding: it promises nobody until it belongs to
		// that cluster, as if it had not been stopped.
		if err := n.found(former, randomID()); err != nil {
			return err
		}
	}
	n.transport.Handle(kindPromise, func(_ context.Context, from partition.NodeID, payload []byte) ([]byte, error) {
		request, err := formation.DecodeRequest(payload)
		if err != nil {
			return nil, err
		}
		if request.Founder != from {
			return nil, fmt.Errorf("%s asks for a promise in the name of %s", from, request.Founder)
		}
		return former.OnAsk(request).Encode()
	})
	if n.identity.Initialised() {
		return nil
	}
	for {
		outcome, err := former.Run(n.ctx)
		if err != nil {
			return err
		}
		if outcome.Founded {
			if err := n.startControl(true); err != nil {
				return err
			}
			return n.found(former, outcome.ClusterID)
		}
		err = n.join(former, outcome)
		if err == nil {
			return nil
		}
		if errors.As(err, new(*control.Rejection)) || errors.Is(err, ErrRefused) {
			return err
		}
		n.journal.log.Warn("joining failed, will be tried again", "cluster", outcome.ClusterID, "err", err)
		if !n.pause(registerLastRetry) {
			return n.ctx.Err()
		}
	}
}

// found makes the cluster in the control group that this node has alone.
func (n *Node) found(former *formation.Coordinator, clusterID string) error {
	command := control.Command{Found: &control.Found{ClusterID: clusterID, Settings: control.Settings{
		Partitions: n.config.Partitions, ReplicationFactor: n.config.ReplicationFactor,
		BootstrapExpect: n.config.BootstrapExpect, CreatedUnixMs: n.config.Now().UnixMilli(), Secret: randomSecret(),
	}}}
	for !n.control.machine.current().Founded() {
		result, _, err := n.control.propose(n.ctx, command)
		switch {
		case err == nil && result.Rejection != nil && result.Rejection.Reason != control.AlreadyFounded:
			return result.Err()
		case err != nil && !n.pause(registerFirstRetry):
			return n.ctx.Err()
		}
	}
	clusterID = n.control.machine.current().ClusterID
	n.journal.log.Info("founded a cluster", "cluster", clusterID)
	return n.nowBelongs(former, clusterID)
}

// join registers with a cluster that other nodes belong to, and becomes one of
// them: durably, before anything of it is opened.
func (n *Node) join(former *formation.Coordinator, to formation.Outcome) error {
	err := n.register(to.ClusterID, func(command control.Command) (control.Result, partition.NodeID, error) {
		data, err := control.EncodeCommand(command)
		if err != nil {
			return control.Result{}, "", err
		}
		failed := errors.New("no member could register this node")
		for _, via := range to.Via {
			ctx, cancel := context.WithTimeout(n.ctx, controlWait)
			result, err := askControl(ctx, n.transport, via, data, true)
			cancel()
			if err == nil {
				n.journal.log.Info("joined a cluster", "cluster", to.ClusterID, "via", via)
				return result, via, nil
			}
			failed = errors.Join(failed, err)
		}
		return control.Result{}, "", failed
	})
	if err != nil {
		return err
	}
	if err := n.nowBelongs(former, to.ClusterID); err != nil {
		return err
	}
	return n.startControl(false)
}

func (n *Node) nowBelongs(former *formation.Coordinator, clusterID string) error {
	if err := n.identity.SetCluster(clusterID); err != nil {
		return err
	}
	former.Belong(clusterID)
	return n.members.SetClusterID(clusterID)
}

// register has a cluster register this start: where the node is now, and that no
// older copy of its directory is to be let in. ask brings one command to the
// control group, and says who answered.
//
// A start before this one may have been told of without an answer. That one comes
// first, so that the directory knows what the cluster has on record: a command
// that was registered already is accepted once more.
func (n *Node) register(cluster string, ask func(control.Command) (control.Result, partition.NodeID, error)) error {
	for {
		start, confirmed := n.identity.Last()
		if confirmed && start.Incarnation == n.incarnation {
			return nil
		}
		if confirmed {
			start = identity.Start{Number: n.identity.NextStart(), Incarnation: n.incarnation}
			if err := n.identity.Attempt(start); err != nil {
				return err
			}
		}
		result, by, err := ask(n.registration(start))
		if err != nil {
			return err
		}
		if rejection := result.Rejection; rejection != nil {
			return n.rejected(by, rejection)
		}
		if err := n.identity.Confirm(start, cluster); err != nil {
			return err
		}
	}
}

// rejected is the error of a registration that the cluster rejected. What no later
// start can change is a refusal of the data directory.
func (n *Node) rejected(by partition.NodeID, rejection *control.Rejection) error {
	switch rejection.Reason {
	case control.RestoredImage, control.NodeLeft:
		return n.refusal(by, rejection.Message)
	}
	return fmt.Errorf("the cluster does not take this node: %w", rejection)
}

// proposeUntilAnswered brings a command to the leader of the control group that
// this node belongs to, as often as it takes. Its own replica learns of the leader
// only when that finds it, so that all other voters are asked meanwhile.
func (n *Node) proposeUntilAnswered(command control.Command) (control.Result, partition.NodeID, error) {
	var asked time.Time
	for pause := registerFirstRetry; ; {
		if _, led := n.control.group.Leader(); led || time.Since(asked) > pause {
			if !asked.IsZero() {
				pause = min(2*pause, registerLastRetry)
			}
			asked = time.Now()
			propose := n.control.propose
			if !led {
				propose = n.control.proposeToAny
			}
			result, by, err := propose(n.ctx, command)
			if err == nil {
				return result, by, nil
			}
			if led && !n.pause(pause) {
				return control.Result{}, "", n.ctx.Err()
			}
		}
		if !n.pause(leaderLook) {
			return control.Result{}, "", n.ctx.Err()
		}
	}
}

func (n *Node) registration(start identity.Start) control.Command {
	previous := control.Start(n.identity.Registered())
	return control.Command{RegisterNode: &control.RegisterNode{
		ClusterID: n.identity.ClusterID(), Previous: &previous, Node: control.Node{
			ID: n.id, Name: n.config.Name, Zone: n.config.Zone,
			API: n.addresses.api, Peer: n.addresses.peer, Gossip: n.addresses.gossip, Version: Version(),
			StartCounter: start.Number, Incarnation: start.Incarnation,
		},
	}}
}

// presented is the start by which others judge this directory: the newest that the
// cluster was told of, or else the one that it is to be told of next.
func (n *Node) presented() (number, incarnation uint64) {
	last, confirmed := n.identity.Last()
	if !confirmed || last.Incarnation == n.incarnation {
		return last.Number, last.Incarnation
	}
	return n.identity.NextStart(), n.incarnation
}

// waitingFor is what keeps this start from being registered, for people.
func (n *Node) waitingFor() string {
	select {
	case <-n.controlUp:
	default:
		return "the node does not follow the control group yet"
	}
	reachable, needed := n.control.group.Reachable()
	if _, led := n.control.group.Leader(); !led || reachable < needed {
		return fmt.Sprintf("it reaches %d voters of the control group, and %d are needed", reachable, needed)
	}
	return "the leader of the control group has not answered yet"
}

func (n *Node) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-n.ctx.Done():
		return false
	}
}

func (n *Node) askPromise(ctx context.Context, to partition.NodeID, request formation.PromiseRequest) (formation.PromiseReply, error) {
	payload, err := request.Encode()
	if err != nil {
		return formation.PromiseReply{}, err
	}
	answer, err := n.transport.Call(ctx, to, kindPromise, payload)
	if err != nil {
		return formation.PromiseReply{}, err
	}
	return formation.DecodeReply(answer)
}

func (n *Node) formationView() formation.View {
	view := formation.View{Self: formation.Member{
		ID: n.id, Name: n.config.Name, Alive: true, ClusterID: n.identity.ClusterID(), Expect: n.config.BootstrapExpect,
	}}
	for _, member := range n.members.Members() {
		if member.Status != membership.StatusLeft {
			view.Members = append(view.Members, formation.Member{
				ID: member.ID, Name: member.Name, Alive: member.Status == membership.StatusAlive,
				ClusterID: member.ClusterID, Expect: member.Expect,
			})
		}
	}
	select {
	case <-n.members.Settled():
		view.Settled = true
	default:
	}
	return view
}

// watchGossip passes on that gossip's view has changed, and connects at once
// to nodes that came back.
func (n *Node) watchGossip() {
	settled := n.members.Settled()
	alive := map[partition.NodeID]bool{}
	for {
		select {
		case <-n.members.Changes():
		case <-settled:
			settled = nil
		case <-n.ctx.Done():
			return
		}
		n.learnAddresses()
		now := n.alive()
		for node := range now {
			if !alive[node] && node != n.id {
				n.transport.Kick(node)
			}
		}
		alive = now
		for _, wake := range []chan<- struct{}{n.gossipChanged, n.gossipForming} {
			select {
			case wake <- struct{}{}:
			default:
			}
		}
	}
}

// alive is gossip's view.
func (n *Node) alive() map[partition.NodeID]bool {
	alive := map[partition.NodeID]bool{}
	for _, member := range n.members.Members() {
		if member.Status == membership.StatusAlive {
			alive[member.ID] = true
		}
	}
	return alive
}

// resolve is where a node is reached: by its own word in gossip, else as the
// ring has it.
func (n *Node) resolve(node partition.NodeID) (string, bool) {
	if n.members != nil {
		for _, member := range n.members.Members() {
			if member.ID == node && member.Status != membership.StatusLeft {
				return member.PeerAddr, true
			}
		}
	}
	if known, ok := n.ring().Node(node); ok {
		return known.Peer, true
	}
	return "", false
}

// admit judges who connects, and to whom this node connects: nobody of another
// cluster, and no older image of a disk than the one that the cluster knows.
func (n *Node) admit(hello transport.Hello) error {
	ours := n.identity.ClusterID()
	if hello.Cluster != "" && ours != "" && hello.Cluster != ours {
		return fmt.Errorf("%s belongs to cluster %s, this node to %s", hello.From, hello.Cluster, ours)
	}
	known, ok := n.ring().Node(hello.From)
	if !ok {
		return nil
	}
	switch {
	case known.State == control.Left:
		return fmt.Errorf("%s: %w", hello.From, transport.ErrPeerRemoved)
	case hello.Start < known.StartCounter, hello.Start == known.StartCounter && hello.Incarnation != known.Incarnation:
		return fmt.Errorf("%s: %w: the cluster has registered its start %d, this is start %d",
			hello.From, transport.ErrPeerOutdated, known.StartCounter, hello.Start)
	}
	return nil
}

// isMember reports whether a peer is in the ring. Before this node has a ring, it
// knows nobody, and its first members may be anybody.
func (n *Node) isMember(hello transport.Hello) bool {
	ring := n.ring()
	if !ring.Founded() {
		return true
	}
	known, ok := ring.Node(hello.From)
	return ok && known.State != control.Left
}

// hearsGuests reports whether a node that is not in the ring may speak in a group:
// in the control group, while no leader is heard there that is in the ring. This
// node's ring may be old, and the present leader have registered since.
func (n *Node) hearsGuests(group storage.GroupID) bool {
	if group != storage.ControlGroup {
		return false
	}
	select {
	case <-n.controlUp:
	default:
		return true
	}
	if n.control.group.Leads() {
		return false
	}
	_, from, at := n.control.link.LeaderHeard()
	leader, err := replication.ParseServerID(from)
	return err != nil || time.Since(at) > guestsAfter || !n.isMember(transport.Hello{From: leader.Node})
}

// guestsAfter is the silence of a known control leader after which another may be
// heard: above the time in which its followers elect the next one.
const guestsAfter = 3 * time.Second

func randomSecret() []byte {
	secret := make([]byte, control.SecretBytes)
	_, _ = rand.Read(secret) // never fails
	return secret
}

func randomID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
