package exchange

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/capstan-kv/capstan/partition"
)

var errNobody = errors.New("nobody answers")

// network is what the nodes of a test talk over: directed links that can be
// cut, that delay, and that deliver twice. A message over a cut link is lost
// without a word.
type network struct {
	wg   sync.WaitGroup
	stop chan struct{}

	mu    sync.Mutex
	rng   *rand.Rand
	ends  map[partition.NodeID]*end
	cuts  map[[2]partition.NodeID]bool
	calls map[uint8]int // delivered, by kind
	twice float64       // how likely a call is delivered twice
	slow  time.Duration // delays are between 1 ms and this
	// loseAnswers drops the answers to calls of a kind.
	loseAnswers map[uint8]bool
}

// end is one node's.
type end struct {
	net      *network
	id       partition.NodeID
	handlers map[uint8]handler
	heard    map[partition.NodeID]time.Time
	down     chan struct{} // closed when the process is dead
}

func newNetwork(seed uint64) *network {
	n := &network{
		stop: make(chan struct{}), rng: rand.New(rand.NewPCG(seed, 1)), slow: time.Millisecond,
		ends: map[partition.NodeID]*end{}, cuts: map[[2]partition.NodeID]bool{},
		calls: map[uint8]int{}, loseAnswers: map[uint8]bool{},
	}
	n.wg.Go(n.ping)
	return n
}

func (n *network) close() {
	close(n.stop)
	n.wg.Wait()
}

// ping lets nodes hear each other.
func (n *network) ping() {
	for {
		n.mu.Lock()
		for from := range n.ends {
			for to := range n.ends {
				n.passes(from, to)
			}
		}
		n.mu.Unlock()
		select {
		case <-time.After(200 * time.Millisecond):
		case <-n.stop:
			return
		}
	}
}

// passes reports whether a message gets through now. The caller holds mu.
func (n *network) passes(from, to partition.NodeID) bool {
	at := n.ends[to]
	if at == nil || n.ends[from] == nil || n.cuts[[2]partition.NodeID{from, to}] {
		return false
	}
	at.heard[from] = time.Now()
	return true
}

// reaches reports whether messages get through in both directions.
func (n *network) reaches(a, b partition.NodeID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return a == b && n.ends[a] != nil || n.passes(a, b) && n.passes(b, a)
}

// cut separates groups of nodes from each other.
func (n *network) cut(groups ...[]partition.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, group := range groups {
		for j, other := range groups {
			if i == j {
				continue
			}
			for _, a := range group {
				for _, b := range other {
					n.cuts[[2]partition.NodeID{a, b}] = true
				}
			}
		}
	}
}

// cutOneWay loses what from sends to to.
func (n *network) cutOneWay(from, to partition.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cuts[[2]partition.NodeID{from, to}] = true
}

func (n *network) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cuts)
}

func (n *network) set(change func(*network)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change(n)
}

func (n *network) count(kind uint8) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.calls[kind]
}

func (n *network) join(id partition.NodeID) *end {
	n.mu.Lock()
	defer n.mu.Unlock()
	e := &end{net: n, id: id, handlers: map[uint8]handler{}, heard: map[partition.NodeID]time.Time{}, down: make(chan struct{})}
	n.ends[id] = e
	for other := range n.ends {
		n.passes(id, other)
		n.passes(other, id)
	}
	return e
}

// runs reports whether the process is alive.
func (n *network) runs(e *end) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ends[e.id] == e
}

// leave is the death of the process: what it has under way gets no answer.
func (n *network) leave(e *end) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ends[e.id] == e {
		delete(n.ends, e.id)
	}
	close(e.down)
}

func (n *network) delay() {
	n.mu.Lock()
	d := time.Millisecond + rand.N(n.slow)
	n.mu.Unlock()
	time.Sleep(d)
}

// travel takes a message over a link, and says where it arrived.
func (n *network) travel(from, to partition.NodeID) *end {
	n.delay()
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.passes(from, to) {
		return nil
	}
	return n.ends[to]
}

func (e *end) Handle(kind uint8, fn func(context.Context, partition.NodeID, []byte) ([]byte, error)) {
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	e.handlers[kind] = fn
}

func (e *end) LastHeard(node partition.NodeID) (time.Duration, bool) {
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	at, ok := e.heard[node]
	return time.Since(at), ok
}

type callAnswer struct {
	b    []byte
	err  error
	lost bool
}

func (e *end) Call(ctx context.Context, to partition.NodeID, kind uint8, payload []byte) ([]byte, error) {
	n := e.net
	n.mu.Lock()
	times := 1
	if n.rng.Float64() < n.twice {
		times = 2
	}
	n.mu.Unlock()
	done := make(chan callAnswer, times)
	sent := append([]byte(nil), payload...) // the caller may use its own again
	for range times {
		n.wg.Go(func() { done <- e.call(ctx, to, kind, append([]byte(nil), sent...)) })
	}
	for range times {
		select {
		case a := <-done:
			if !a.lost {
				return a.b, a.err
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-e.down:
			return nil, errNobody
		}
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-e.down:
		return nil, errNobody
	}
}

func (e *end) call(ctx context.Context, to partition.NodeID, kind uint8, payload []byte) callAnswer {
	n := e.net
	at := n.travel(e.id, to)
	if at == nil {
		return callAnswer{lost: true}
	}
	n.mu.Lock()
	fn := at.handlers[kind]
	n.calls[kind]++
	lost := n.loseAnswers[kind]
	n.mu.Unlock()
	if fn == nil {
		return callAnswer{err: errNobody}
	}
	b, err := fn(ctx, e.id, payload)
	if lost || n.travel(to, e.id) != e || !n.runs(at) {
		return callAnswer{lost: true}
	}
	return callAnswer{b: b, err: err}
}
