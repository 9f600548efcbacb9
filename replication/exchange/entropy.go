package exchange

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
)

const (
	// holderAge is how long a node that offered writes counts as a holder: it
	// offers again as long as it holds any and they do not get on.
	holderAge = 15 * time.Second
	// offerAge is how long it holds that another node lacked nothing. Its disk
	// may have been set back since, or it has let go of what is not decided.
	offerAge = 10 * time.Second
	// offerTimeout bounds one call.
	offerTimeout = 2 * time.Second
	// maxPartners bounds how many nodes are offered to at a time.
	maxPartners = 8
	// maxOfferSteps bounds how often one offer is repeated to one node. Each
	// step gives it all that it asked for, so that a second one finds nothing
	// as a rule.
	maxOfferSteps = 4
)

// offers is what is known of other holders, under place.mu.
type offers struct {
	running bool
	// from is when nodes last offered writes: those without a replica are not
	// known as holders otherwise.
	from map[partition.NodeID]time.Time
	// taken is what nodes were offered last, and lacked nothing of.
	taken map[partition.NodeID]taken
}

type taken struct {
	dots *storage.DotSet
	at   time.Time
}

func newOffers() offers {
	return offers{from: map[partition.NodeID]time.Time{}, taken: map[partition.NodeID]taken{}}
}

// forgetOffers has everything offered anew.
func (pl *place) forgetOffers() {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	clear(pl.offers.taken)
}

// offer gives other holders what they lack, without waiting. That is for when
// promotion does not get on: otherwise the leader's log brings it all.
func (pl *place) offer() {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	if pl.offers.running {
		return
	}
	pl.offers.running = pl.x.spawn(func() {
		defer func() {
			pl.mu.Lock()
			defer pl.mu.Unlock()
			pl.offers.running = false
		}()
		select {
		case pl.x.rounds <- struct{}{}:
			defer func() { <-pl.x.rounds }()
			pl.offerRound()
		case <-pl.x.ctx.Done():
		}
	})
}

func (pl *place) offerRound() {
	dots := pl.toOffer()
	if dots.IsEmpty() {
		return
	}
	// All at a time: one that can not answer must not keep the others waiting.
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, node := range pl.partners() {
		if pl.hasTaken(node, dots) {
			continue
		}
		wg.Go(func() {
			if pl.supply(node, dots) {
				pl.mu.Lock()
				defer pl.mu.Unlock()
				pl.offers.taken[node] = taken{dots, time.Now()}
			}
		})
	}
}

// toOffer is what is held here and not known to be decided. While a leader is
// known, that is no more than what has been here for a while.
func (pl *place) toOffer() *storage.DotSet {
	held := pl.held()
	leaderless := pl.leader() == ""
	var known *storage.DotSet
	if r := pl.x.cfg.Replica(pl.partition); r != nil {
		known = r.Promoted()
	} else {
		known = &storage.DotSet{}
	}
	answered, _ := pl.knownDecided()
	pl.mu.Lock()
	defer pl.mu.Unlock()
	dots := &storage.DotSet{}
	left := minus(held, known, answered)
	if leaderless {
		return left
	}
	for r := range left.Ranges() {
		for _, aged := range pl.agedOf(r) {
			if aged.Last > 0 {
				_ = dots.AddRange(aged) // should there be too many gaps, the rest comes another time
			}
		}
	}
	return dots
}

// without is the dots of s that other lacks.
func without(s, other *storage.DotSet) (*storage.DotSet, error) {
	left := &storage.DotSet{}
	for r := range s.Minus(other) {
		if err := left.AddRange(r); err != nil {
			return nil, err
		}
	}
	return left, nil
}

// minus is the dots of s that none of the others has. What would have too many
// gaps is not taken away: it never is less than that.
func minus(s *storage.DotSet, others ...*storage.DotSet) *storage.DotSet {
	for _, other := range others {
		if left, err := without(s, other); err == nil {
			s = left
		}
	}
	return s
}

// hasTaken reports whether node lacked nothing of these dots lately.
func (pl *place) hasTaken(node partition.NodeID, dots *storage.DotSet) bool {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	t, ok := pl.offers.taken[node]
	return ok && time.Since(t.at) < offerAge && t.dots.Equal(dots)
}

// partners are the other holders that can be reached: replicas, and who has
// offered something lately. A holder without a replica that reaches none asks
// all nodes, since any of them may be another one.
func (pl *place) partners() []partition.NodeID {
	ring := pl.x.cfg.Ring()
	if ring == nil {
		return nil
	}
	self := pl.x.cfg.Self
	var found []partition.NodeID
	add := func(n partition.NodeID) {
		if len(found) < maxPartners && n != self && !slices.Contains(found, n) && pl.x.reachable(n) {
			found = append(found, n)
		}
	}
	replicas := ring.Replicas(pl.partition)
	for _, n := range replicas {
		add(n)
	}
	if len(found) == 0 && pl.x.cfg.Replica(pl.partition) == nil && !slices.Contains(replicas, self) {
		for _, n := range ring.Nodes() {
			add(n)
		}
	}
	for _, n := range pl.offerers(ring) {
		add(n)
	}
	return found
}

// offerers are the members that have offered something lately, in order.
func (pl *place) offerers(ring Placement) []partition.NodeID {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	var found []partition.NodeID
	members := ring.Nodes()
	for n, at := range pl.offers.from {
		if time.Since(at) > holderAge || !slices.Contains(members, n) {
			delete(pl.offers.from, n)
			continue
		}
		found = append(found, n)
	}
	slices.Sort(found)
	return found
}

// supply brings node what it lacks of the dots. It reports whether node lacks
// nothing of them any more.
func (pl *place) supply(node partition.NodeID, dots *storage.DotSet) bool {
	sent, complete := 0, true
	for _, part := range parts(dots, maxOfferSpans) {
		n, ok := pl.givePart(node, part)
		sent += n
		if complete = ok; !ok {
			break
		}
	}
	if sent > 0 {
		pl.x.emit(Sent{pl.partition, node, sent})
	}
	return complete
}

// parts are sets of at most so many runs each.
func parts(s *storage.DotSet, spans int) []*storage.DotSet {
	if s.Spans() <= spans {
		return []*storage.DotSet{s}
	}
	var all []*storage.DotSet
	for r := range s.Ranges() {
		if n := len(all); n == 0 || all[n-1].Spans() == spans {
			all = append(all, &storage.DotSet{})
		}
		_ = all[len(all)-1].AddRange(r) // far below the limit
	}
	return all
}

func (pl *place) givePart(node partition.NodeID, part *storage.DotSet) (sent int, complete bool) {
	for range maxOfferSteps {
		want, err := pl.callOffer(node, part)
		if err != nil {
			return sent, false
		}
		if want.IsEmpty() {
			return sent, true
		}
		n, err := pl.send(node, want)
		sent += n
		if err != nil {
			return sent, false
		}
		if n == 0 { // decided meanwhile
			return sent, true
		}
	}
	return sent, false
}

func (pl *place) callOffer(node partition.NodeID, part *storage.DotSet) (*storage.DotSet, error) {
	ctx, cancel := context.WithTimeout(pl.x.ctx, offerTimeout)
	defer cancel()
	b, err := pl.x.cfg.Peers.Call(ctx, node, KindOffer, offerRequest{pl.partition, part}.encode())
	if err != nil {
		return nil, err
	}
	a, err := decodeOfferAnswer(b)
	if err != nil {
		return nil, err
	}
	if a.status != statusDone {
		return nil, fmt.Errorf("%s: %v", node, a.status)
	}
	return a.dots, nil
}

// send brings node those of the dots that are held here.
func (pl *place) send(node partition.NodeID, dots *storage.DotSet) (sent int, err error) {
	for ranges := slices.Collect(dots.Ranges()); len(ranges) > 0; {
		writes, err := pl.log.Within(ranges, batchLimit)
		if err != nil {
			pl.x.emit(LogFailed{pl.partition, err})
			return sent, err
		}
		if len(writes) == 0 {
			return sent, nil
		}
		ctx, cancel := context.WithTimeout(pl.x.ctx, offerTimeout)
		s, err := pl.callStore(ctx, node, storeRequest{partition: pl.partition, writes: writes})
		cancel()
		if err != nil {
			return sent, err
		}
		if s != statusDone {
			return sent, fmt.Errorf("%s: %v", node, s)
		}
		sent += len(writes)
		ranges = behind(ranges, writes[len(writes)-1].Dot)
	}
	return sent, nil
}

// behind is what is left of ranges, which are in order, behind the dot last.
func behind(ranges []storage.DotRange, last storage.Dot) []storage.DotRange {
	for len(ranges) > 0 {
		r := ranges[0]
		end := storage.Dot{Node: r.Node, Incarnation: r.Incarnation, Sequence: r.Last}
		if end.Compare(last) > 0 {
			first := storage.Dot{Node: r.Node, Incarnation: r.Incarnation, Sequence: r.First}
			if first.Compare(last) <= 0 {
				ranges[0].First = last.Sequence + 1
			}
			return ranges
		}
		ranges = ranges[1:]
	}
	return nil
}

// offered is what this node wants of the dots that another holder has.
//
// A node that has no replica and holds nothing wants nothing: it is no holder,
// and to become one would not help anybody.
func (pl *place) offered(from partition.NodeID, dots *storage.DotSet) *storage.DotSet {
	pl.mu.Lock()
	pl.offers.from[from] = time.Now()
	pl.mu.Unlock()
	r := pl.x.cfg.Replica(pl.partition)
	held := pl.held()
	if r == nil && held.IsEmpty() {
		return &storage.DotSet{}
	}
	answered, _ := pl.knownDecided()
	known := []*storage.DotSet{held, answered}
	if r != nil {
		known = append(known, r.Promoted())
	}
	want := &storage.DotSet{}
	for d := range minus(dots, known...).Ranges() {
		if want.Spans() == maxOfferSpans {
			break // the rest is asked for when this was given
		}
		if r == nil || !r.Forfeited(d.Node) {
			_ = want.AddRange(d) // far below the limit
		}
	}
	return want
}
