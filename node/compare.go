package node

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
)

// The replicas of a partition are compared by a check command: each replica computes
// the digest of its state as it is right after that entry of the log, so that equal
// replicas have equal digests. Any node can then ask the replicas for what they have
// computed, and finds the same. A replica that differs from a majority of all replicas
// takes itself out of service, by what it finds so itself: nobody else's word counts.

const (
	// compareEvery is how often the leader of a partition has its replicas compared.
	// All data is read for it, at each of them.
	compareEvery = 24 * time.Hour
	// compareLook is how often a node looks which partition is due. One at a time.
	compareLook = time.Minute
	// digestRate bounds what a node reads for digests, in bytes per second: some
	// percent of a disk and of a core.
	digestRate = 32 << 20
	// comparePatience is how long a replica may be behind the check, or not answer:
	// it gives no answer then.
	comparePatience = 30 * time.Second
	// compareLimit bounds a whole comparison, and so how long its views keep old data
	// on disk: 100 GiB at digestRate.
	compareLimit = time.Hour
	// maxDigests bounds the views that wait at a node for their digests: one of each
	// other node that compares, in a cluster of moderate size, and some on demand.
	maxDigests = 16
	// keptDigests bounds what is remembered of finished ones, about 200 bytes each.
	keptDigests = 1024
	// compareCall bounds one question to another node.
	compareCall = 2 * time.Second
	// firstComparePause and lastComparePause bound the pause between two questions.
	firstComparePause = 5 * time.Millisecond
	lastComparePause  = time.Second
)

// newCheckID makes an id that tells when the comparison began.
func newCheckID() (id storage.CheckID) {
	binary.BigEndian.PutUint64(id[:], uint64(time.Now().UnixNano()))
	_, _ = rand.Read(id[8:]) // never fails
	return id
}

func begunAt(id storage.CheckID) time.Time {
	return time.Unix(0, int64(binary.BigEndian.Uint64(id[:])))
}

// digestState is how far a replica is with its part in a comparison.
type digestState uint8

const (
	digestNone    digestState = iota // it has not applied the check, or knows nothing of it any more
	digestPending                    // it is being computed, or waits for that
	digestDone
	digestRefused // there will be none
)

// digestAnswer is a replica's part in a comparison.
type digestAnswer struct {
	State   digestState
	Digest  storage.Digest
	Refusal string `json:",omitempty"`
}

// digests computes the digests of this node's replicas, one at a time and at a bounded
// rate. Safe for concurrent use.
type digests struct {
	mu      sync.Mutex
	closed  bool
	known   map[storage.CheckID]digestAnswer
	order   []storage.CheckID // of known, the oldest first
	waiting []waitingDigest
	wake    chan struct{}
}

type waitingDigest struct {
	id   storage.CheckID
	view *storage.ReplicaView
}

func newDigests() *digests {
	return &digests{known: map[storage.CheckID]digestAnswer{}, wake: make(chan struct{}, 1)}
}

// see takes a view of the state that a check is to be computed of. It does not wait.
func (d *digests) see(id storage.CheckID, view *storage.ReplicaView) {
	d.mu.Lock()
	full := len(d.waiting) >= maxDigests
	if d.closed || full {
		if !d.closed {
			d.note(id, digestAnswer{State: digestRefused, Refusal: fmt.Sprintf("%d digests wait at this node already", maxDigests)})
		}
		d.mu.Unlock()
		_ = view.Close()
		return
	}
	d.note(id, digestAnswer{State: digestPending})
	d.waiting = append(d.waiting, waitingDigest{id, view})
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// note is called with the lock held.
func (d *digests) note(id storage.CheckID, answer digestAnswer) {
	if _, ok := d.known[id]; !ok {
		if len(d.order) == keptDigests {
			delete(d.known, d.order[0])
			d.order = d.order[1:]
		}
		d.order = append(d.order, id)
	}
	d.known[id] = answer
}

func (d *digests) answer(id storage.CheckID) digestAnswer {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.known[id]
}

func (d *digests) next() (waitingDigest, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.waiting) == 0 {
		return waitingDigest{}, false
	}
	next := d.waiting[0]
	d.waiting = d.waiting[1:]
	return next, true
}

// run computes what waits, until ctx is done; nothing is left open then.
func (d *digests) run(ctx context.Context) {
	for ctx.Err() == nil {
		next, ok := d.next()
		if !ok {
			select {
			case <-d.wake:
			case <-ctx.Done():
			}
			continue
		}
		answer := digestAnswer{State: digestDone}
		var err error
		if answer.Digest, err = next.view.Digest(paced(ctx, next.id)); err != nil {
			answer = digestAnswer{State: digestRefused, Refusal: oneLine(err)}
		}
		_ = next.view.Close() // nothing was written
		d.mu.Lock()
		d.note(next.id, answer)
		d.mu.Unlock()
	}
	d.mu.Lock()
	d.closed = true
	left := d.waiting
	d.waiting = nil
	d.mu.Unlock()
	for _, w := range left {
		_ = w.view.Close()
	}
}

var errCompareLimit = fmt.Errorf("the comparison took longer than %v", compareLimit)

// paced keeps a digest at digestRate.
func paced(ctx context.Context, id storage.CheckID) func(int) error {
	began, read := time.Now(), 0
	return func(bytes int) error {
		read += bytes
		if time.Since(begunAt(id)) > compareLimit {
			return errCompareLimit
		}
		due := time.Duration(float64(read) / digestRate * float64(time.Second))
		timer := time.NewTimer(due - time.Since(began))
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// compareResult is what a comparison has found. The numbers are those of the public
// capstan.v1.ComparisonResult.
type compareResult uint8

const (
	compareEqual      compareResult = 1
	compareDifferent  compareResult = 2
	compareIncomplete compareResult = 3
	comparePending    compareResult = 4
)

// judge decides what the answers of a partition's replicas mean; late says that those
// which have not applied the check are not waited for any more. wrong are the replicas
// that differ from a majority of all, be they here or not; without such a majority
// nobody can tell who is wrong.
func judge(answers []digestAnswer, late bool) (result compareResult, wrong []int) {
	votes := map[storage.Digest]int{}
	answered := 0
	for _, a := range answers {
		switch a.State {
		case digestPending:
			return comparePending, nil
		case digestNone:
			if !late {
				return comparePending, nil
			}
		case digestDone:
			votes[a.Digest]++
			answered++
		}
	}
	switch {
	case len(votes) == 1 && answered == len(answers):
		return compareEqual, nil
	case len(votes) <= 1:
		return compareIncomplete, nil
	}
	for digest, n := range votes {
		if n <= len(answers)/2 {
			continue
		}
		for i, a := range answers {
			if a.State == digestDone && a.Digest != digest {
				wrong = append(wrong, i)
			}
		}
	}
	return compareDifferent, wrong
}

// comparison is the last one of a partition that a node has made.
type comparison struct {
	Partition partition.ID
	Result    compareResult
	Index     uint64
	Replicas  []partition.NodeID
	Answers   []digestAnswer
	Time      time.Time
}

// comparer compares the replicas of partitions, for this node. Safe for concurrent use.
type comparer struct {
	n       *Node
	digests *digests

	mu      sync.Mutex
	last    map[partition.ID]comparison
	results map[compareResult]uint64 // how often
	due     map[partition.ID]time.Time
}

func newComparer(n *Node) *comparer {
	return &comparer{
		n: n, digests: newDigests(), last: map[partition.ID]comparison{},
		results: map[compareResult]uint64{}, due: map[partition.ID]time.Time{},
	}
}

// seeing is what a replica of p shows its state to when it applies a check. Checks
// that are applied again after a start are nobody's any more.
func (c *comparer) seeing(p partition.ID) func(storage.CheckID, *storage.ReplicaView) {
	return func(id storage.CheckID, view *storage.ReplicaView) {
		if here := c.n.replicas.replica(p); here == nil || !here.group.CaughtUp() || time.Since(begunAt(id)) > compareLimit {
			_ = view.Close()
			return
		}
		c.digests.see(id, view)
	}
}

// begin has a comparison of p begun by its leader, and returns its id.
func (c *comparer) begin(ctx context.Context, p partition.ID) (storage.CheckID, error) {
	id := newCheckID()
	_, err := route(ctx, c.n.router, p, checkCall(p, id))
	return id, err
}

// check proposes the check at the replica here, which has to lead.
func (h *replica) check(ctx context.Context, id storage.CheckID) error {
	_, err := h.group.Propose(ctx, storage.AppendCheck(nil, id))
	return err
}

// checkCall has a leader propose a check. Tried again, it is the same check, which
// replicas compute once more.
func checkCall(p partition.ID, id storage.CheckID) call[struct{}] {
	return call[struct{}]{
		write: true, order: true,
		here: func(ctx context.Context, here *replica) (struct{}, error) { return struct{}{}, here.check(ctx, id) },
		frame: func() ([]byte, error) {
			return append(binary.BigEndian.AppendUint32([]byte{byte(hopCheck)}, uint32(p)), id[:]...), nil
		},
		decode: func(partition.NodeID, []byte) (struct{}, error) { return struct{}{}, nil },
	}
}

func (s *hopServer) check(ctx context.Context, body []byte) ([]byte, error) {
	if len(body) != 4+len(storage.CheckID{}) {
		return nil, badHop(errors.New("check: wrong length"))
	}
	here, err := s.replica(partition.ID(binary.BigEndian.Uint32(body)))
	if err != nil {
		return nil, err
	}
	return nil, here.check(ctx, storage.CheckID(body[4:]))
}

// compareQuestion asks a node for its replica's part in a comparison. Look has it look
// at the whole comparison itself: its replica is said to differ.
type compareQuestion struct {
	Partition partition.ID
	ID        storage.CheckID
	Look      bool `json:",omitempty"`
}

func (c *comparer) handle(_ context.Context, _ partition.NodeID, payload []byte) ([]byte, error) {
	var q compareQuestion
	if err := json.Unmarshal(payload, &q); err != nil {
		return nil, fmt.Errorf("comparison: not understood: %w", err)
	}
	if q.Look {
		c.look(q.Partition, q.ID)
	}
	return json.Marshal(c.here(q.Partition, q.ID))
}

// here is this node's part in a comparison.
func (c *comparer) here(p partition.ID, id storage.CheckID) digestAnswer {
	if why := c.n.replicas.lost(p); why != nil {
		what := "not opened"
		if why.Quarantined {
			what = "quarantined"
		}
		return digestAnswer{State: digestRefused, Refusal: what + ": " + why.Reason}
	}
	return c.digests.answer(id)
}

// see asks all replicas of p for their part in a comparison, and judges.
func (c *comparer) see(ctx context.Context, p partition.ID, id storage.CheckID) (comparison, []int) {
	found := comparison{Partition: p, Time: time.Now()}
	for _, placed := range c.n.ring().Partitions[p].Replicas {
		found.Replicas = append(found.Replicas, placed.Node)
	}
	found.Answers = make([]digestAnswer, len(found.Replicas))
	question, err := json.Marshal(compareQuestion{Partition: p, ID: id})
	if err != nil {
		panic(fmt.Sprintf("node: a struct of plain fields does not encode: %v", err))
	}
	var asked sync.WaitGroup
	for i, node := range found.Replicas {
		asked.Go(func() {
			if node == c.n.id {
				found.Answers[i] = c.here(p, id)
				return
			}
			ctx, cancel := context.WithTimeout(ctx, compareCall)
			defer cancel()
			answer, err := c.n.transport.Call(ctx, node, kindCompare, question)
			if err == nil {
				err = json.Unmarshal(answer, &found.Answers[i])
			}
			if err != nil { // another time it may answer
				found.Answers[i] = digestAnswer{Refusal: oneLine(err)}
				if notDelivered(err) {
					found.Answers[i].State = digestRefused
				}
			}
		})
	}
	asked.Wait()
	var wrong []int
	found.Result, wrong = judge(found.Answers, time.Since(begunAt(id)) > comparePatience)
	for i := range found.Answers {
		a := &found.Answers[i]
		found.Index = max(found.Index, a.Digest.Index)
		if a.State == digestNone && a.Refusal == "" {
			a.Refusal = "it has not applied the check: it is behind, or was sent a snapshot meanwhile"
		}
	}
	return found, wrong
}

// await waits for a comparison to end, at most until ctx is done: it is pending then.
func (c *comparer) await(ctx context.Context, p partition.ID, id storage.CheckID) comparison {
	for pause := firstComparePause; ; pause = min(2*pause, lastComparePause) {
		found, wrong := c.see(ctx, p, id)
		if found.Result != comparePending {
			c.ended(found, wrong, id)
			return found
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return found
		}
	}
}

// ended notes the result, and has the nodes of replicas that differ look themselves.
func (c *comparer) ended(found comparison, wrong []int, id storage.CheckID) {
	c.mu.Lock()
	c.last[found.Partition] = found
	c.results[found.Result]++
	c.mu.Unlock()
	if found.Result != compareDifferent {
		return
	}
	args := []any{"partition", found.Partition, "entry", found.Index}
	for i, a := range found.Answers {
		what := a.Refusal
		if a.State == digestDone {
			what = fmt.Sprintf("%s (%d records)", hex.EncodeToString(a.Digest.Sum[:8]), a.Digest.Records)
		}
		args = append(args, nameOf(c.n.ring(), found.Replicas[i]), what)
	}
	if len(wrong) == 0 {
		c.n.journal.log.Error("replicas differ, and no majority of them agrees: all go on serving", args...)
		return
	}
	c.n.journal.log.Error("replicas differ", args...)
	question, err := json.Marshal(compareQuestion{Partition: found.Partition, ID: id, Look: true})
	if err != nil {
		panic(fmt.Sprintf("node: a struct of plain fields does not encode: %v", err))
	}
	for _, i := range wrong {
		if found.Replicas[i] == c.n.id {
			c.look(found.Partition, id)
			continue
		}
		ctx, cancel := context.WithTimeout(c.n.ctx, compareCall)
		// If it does not hear of it now, the next comparison finds the same.
		_, _ = c.n.transport.Call(ctx, found.Replicas[i], kindCompare, question)
		cancel()
	}
}

// look looks at a comparison of which this node's replica of p is said to be the one
// that differs, and takes it out of service if that is so.
func (c *comparer) look(p partition.ID, id storage.CheckID) {
	here := c.n.replicas.replica(p)
	if here == nil || c.digests.answer(id).State != digestDone || int(p) >= len(c.n.ring().Partitions) {
		return
	}
	c.n.tasks.Go(func() {
		found, wrong := c.see(c.n.ctx, p, id)
		for _, i := range wrong {
			if found.Replicas[i] == c.n.id {
				c.n.replicas.fail(here.state.Replica(), fmt.Errorf("%w: at entry %d, as comparison %s shows", errDiffers, found.Index, hex.EncodeToString(id[:])))
			}
		}
	})
}

// run has the partitions that this node leads compared from time to time, one after
// the other, until ctx is done.
func (c *comparer) run(ctx context.Context) {
	look := time.NewTicker(compareLook)
	defer look.Stop()
	for {
		select {
		case <-look.C:
		case <-ctx.Done():
			return
		}
		p, ok := c.nextDue(time.Now())
		if !ok {
			continue
		}
		limited, cancel := context.WithTimeout(ctx, compareLimit)
		id, err := c.begin(limited, p)
		if err == nil {
			c.await(limited, p, id)
		}
		cancel()
		if err != nil && ctx.Err() == nil {
			c.n.journal.log.Debug("replicas were not compared, will be tried again", "partition", p, "err", err)
		}
	}
}

// nextDue is a partition that this node leads and whose replicas are to be compared
// now. After a start, and where leadership is new, it is not known when they were: each
// has its turn at some time within compareEvery.
func (c *comparer) nextDue(now time.Time) (partition.ID, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, here := range c.n.replicas.all() {
		p := here.partition
		if here.failed() || !here.group.Leads() {
			delete(c.due, p)
			continue
		}
		due, ok := c.due[p]
		switch {
		case !ok:
			c.due[p] = now.Add(mathrand.N(compareEvery))
		case !now.Before(due):
			c.due[p] = now.Add(compareEvery)
			return p, true
		}
	}
	return 0, false
}

// latest are the last comparisons of all partitions that this node has made.
func (c *comparer) latest() []comparison {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]comparison, 0, len(c.last))
	for _, found := range c.last {
		all = append(all, found)
	}
	return all
}

// counts is how often each result was found, and when the last comparison ended.
func (c *comparer) counts() (results map[compareResult]uint64, last time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	results = map[compareResult]uint64{}
	for result, n := range c.results {
		results[result] = n
	}
	for _, found := range c.last {
		if found.Time.After(last) {
			last = found.Time
		}
	}
	return results, last
}
