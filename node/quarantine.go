package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/storage"
)

// outage is why a replica that the ring gives to this node is not open.
type outage struct {
	Partition  partition.ID
	Generation uint32
	// Quarantined: the replica is wrong, and this is stored; later starts do not
	// open it either. Otherwise it could not be opened, which the next start tries
	// again.
	Quarantined bool
	// Reason is one line.
	Reason string
	Since  time.Time
}

// errStateBehindLog means that the state lacks entries that the log was cut behind:
// they can be read nowhere on this node.
var errStateBehindLog = errors.New("the applied state is older than the Raft log")

// isWrong reports whether an error says that one replica is wrong, for good. It is
// false for what another start may mend.
func isWrong(err error) bool {
	for _, wrong := range []error{storage.ErrStateDamaged, storage.ErrStateBesideLog, errStateBehindLog, errDiffers} {
		if errors.Is(err, wrong) {
			return true
		}
	}
	return false
}

// errDiffers means that a majority of the partition's replicas agree on a state at
// the same index that is not this one's.
var errDiffers = errors.New("the applied state differs from that of the other replicas")

// endsNode reports whether an error at the opening of one replica is not about that
// replica alone: the log database is in doubt, and with it all votes, or a database
// takes no calls.
func endsNode(err error) bool {
	for _, all := range []error{
		storage.ErrLogLost, storage.ErrLogCorrupt, storage.ErrLogFailed, storage.ErrLogClosed, storage.ErrLogNewerFormat,
		storage.ErrDamaged, storage.ErrBroken, storage.ErrStateClosed,
	} {
		if errors.Is(err, all) {
			return true
		}
	}
	var refusal *replication.Error
	return errors.As(err, &refusal) && refusal.Reason == replication.Stopping
}

// quarantineMark names, among the stable values of a replica in the log database,
// why it is out of service for good.
const quarantineMark = "node/quarantine"

// quarantined reads why r is out of service for good; nil if it is not.
func (o *groupOpener) quarantined(r storage.Replica) (*outage, error) {
	values, err := o.log.Replica(r)
	if err != nil {
		return nil, err
	}
	record, err := values.Get(quarantineMark)
	if errors.Is(err, storage.ErrLogNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	found := &outage{}
	if err := json.Unmarshal(record, found); err != nil {
		return nil, fmt.Errorf("quarantine of %v: %w: %w", r, storage.ErrLogCorrupt, err)
	}
	return found, nil
}

// quarantine stores that r is out of service for good, durably.
func (o *groupOpener) quarantine(r storage.Replica, why outage) error {
	record, err := json.Marshal(why)
	if err != nil {
		return err
	}
	values, err := o.log.Replica(r)
	if err != nil {
		return err
	}
	return values.Set(storage.LogValue{Name: quarantineMark, Value: record})
}

// oneLine is the reason as it is stored and shown.
func oneLine(err error) string {
	const most = 500 // bytes: a path and a sentence
	text := strings.Join(strings.Fields(err.Error()), " ")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + " ..."
	}
	return text
}

// lost is why this node's replica of p is not open; nil if it is, or if the ring
// gives it none.
func (s *replicaSet) lost(p partition.ID) *outage {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.outages[p]
}

// quarantined reports whether this node's replica of p is out of service for good:
// for that partition the node is a holder of hints.
func (s *replicaSet) quarantined(p partition.ID) bool {
	why := s.lost(p)
	return why != nil && why.Quarantined
}

// allLost are the replicas that the ring gives to this node and are not open because
// something is wrong, in order of their partitions.
func (s *replicaSet) allLost() []outage {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var all []outage
	for _, why := range s.outages {
		all = append(all, *why)
	}
	slices.SortFunc(all, func(a, b outage) int { return int(a.Partition) - int(b.Partition) })
	return all
}

// notOpened decides what an error at the opening of a replica means: it is nil if
// the node goes on without that replica.
func (s *replicaSet) notOpened(name storage.Replica, cause error) error {
	if endsNode(cause) {
		return cause
	}
	p, _ := name.Group.Partition()
	why := &outage{Partition: p, Generation: name.Generation, Quarantined: isWrong(cause), Reason: oneLine(cause), Since: time.Now()}
	if why.Quarantined {
		if err := s.opener.quarantine(name, *why); err != nil {
			return errors.Join(cause, err)
		}
	}
	s.out(why)
	s.exchange.Kick(p) // what the node holds of the partition's eventual writes, it hands in
	return nil
}

func (s *replicaSet) out(why *outage) {
	s.mu.Lock()
	if s.outages == nil {
		s.outages = map[partition.ID]*outage{}
	}
	s.outages[why.Partition] = why
	s.mu.Unlock()
	if why.Quarantined {
		s.log.Error("a replica is quarantined: it serves nothing and counts for nothing, others answer in its place",
			"partition", why.Partition, "why", why.Reason, "since", why.Since, "try", why.remedy())
		return
	}
	s.log.Error("a replica cannot be opened: others answer in its place",
		"partition", why.Partition, "why", why.Reason, "try", why.remedy())
}

// remedy is what an operator can do, until replicas are rebuilt without hands.
func (o *outage) remedy() string {
	if !o.Quarantined {
		return "restart the node"
	}
	return "when the node holds no tentative writes any more, stop it, empty its data directory, start it again as a new node, " +
		"and remove its old id (capstan node remove)"
}

// fail takes a replica that was found wrong out of service. It does not wait, but
// the replica serves nothing once it returns.
func (s *replicaSet) fail(r storage.Replica, cause error) {
	p, ok := r.Group.Partition()
	if !ok || !isWrong(cause) {
		return
	}
	s.mu.Lock()
	held := s.open[p]
	if held == nil || held.generation != r.Generation || held.leaving || s.closed {
		s.mu.Unlock()
		return
	}
	held.leaving = true
	s.leaving.Add(1)
	s.mu.Unlock()
	held.group.Fail(cause)
	go func() {
		defer s.leaving.Done()
		s.expel(held, cause)
	}()
}

func (s *replicaSet) expel(held *heldReplica, cause error) {
	p := held.partition
	why := &outage{Partition: p, Generation: held.generation, Quarantined: true, Reason: oneLine(cause), Since: time.Now()}
	if err := s.opener.quarantine(held.state.Replica(), *why); err != nil {
		// The node is ending: nothing else keeps the log database from storing it. The
		// next start finds out again.
		s.log.Error("a quarantine was not stored", "partition", p, "err", err)
	}
	if err := held.parts.close(); err != nil {
		s.log.Warn("a quarantined replica was not closed in good order", "partition", p, "err", err)
	}
	applied, _ := held.state.Applied()
	s.mu.Lock()
	delete(s.open, p)
	s.mu.Unlock()
	s.out(why)
	if errors.Is(cause, storage.ErrStateBesideLog) {
		// What that state had decided may not be decided at all: the writes that were
		// settled by it stay on disk, and the next start holds them as undecided.
		s.exchange.Kick(p)
		return
	}
	if err := s.exchange.HandOver(p, applied); err != nil {
		s.log.Warn("the tentative log was not handed over", "partition", p, "err", err)
	}
}

// stored names every replica of this node with state in the database.
func (s *replicaSet) stored() []storage.Replica {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := []storage.Replica{controlReplica}
	for p, held := range s.open {
		all = append(all, storage.Replica{Group: storage.GroupOf(p), Generation: held.generation})
	}
	for p, why := range s.outages {
		all = append(all, storage.Replica{Group: storage.GroupOf(p), Generation: why.Generation})
	}
	return all
}
