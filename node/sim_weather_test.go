package node

import (
	"context"
	"fmt"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"github.com/capstan-kv/capstan/jepsen/contract"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/replication/memnet"
)

// harm is one kind of bad weather.
type harm int

// harms do harm to s, and return what ends it, or nil. They are called, and
// ended, one after the other.
var harms = []func(s *simulation, rng *mathrand.Rand) (end func()){
	(*simulation).isolate,
	(*simulation).split,
	(*simulation).deafen,
	(*simulation).cutOneWay,
	(*simulation).bridge,
	(*simulation).powerCut,
	(*simulation).powerCutAll,
	(*simulation).restart,
	(*simulation).slowLinks,
	(*simulation).resets,
	(*simulation).clockJump,
	(*simulation).slowApply,
	(*simulation).slowApply,
	(*simulation).handover,
	(*simulation).cutLog,
	(*simulation).forget,
	(*simulation).hangDisk,
}

// disturbFor does harm to the cluster for that long, up to three at a time, and
// ends it all.
func (s *simulation) disturbFor(span time.Duration, rng *mathrand.Rand) {
	type under struct {
		end   func()
		until time.Duration
	}
	var now []under
	for s.now() < span {
		time.Sleep(time.Duration(rng.Int64N(int64(s.weather.calm))))
		left := now[:0]
		for _, u := range now {
			if s.now() < u.until {
				left = append(left, u)
			} else {
				u.end()
			}
		}
		now = left
		if len(now) == 3 {
			continue
		}
		h := s.weather.harms[rng.IntN(len(s.weather.harms))]
		if end := harms[h](s, rng); end != nil {
			now = append(now, under{end, s.now() + time.Duration(rng.Int64N(int64(6*time.Second)))})
		}
	}
	s.net.Heal()
	for _, u := range now {
		u.end()
	}
	s.startStopped()
	time.Sleep(longestDelay)
}

func (s *simulation) any(rng *mathrand.Rand) *machine { return s.machines[rng.IntN(len(s.machines))] }

// victim is a machine, by preference one that leads.
func (s *simulation) victim(rng *mathrand.Rand) *machine {
	if rng.IntN(2) == 0 {
		return s.any(rng)
	}
	return s.leaderAmongRunning(partition.ID(rng.IntN(4)), s.any(rng))
}

// shuffled are all machines but one, in a random order.
func (s *simulation) shuffled(rng *mathrand.Rand, not *machine) []*machine {
	rest := s.others(not)
	rng.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
	return rest
}

func (s *simulation) isolate(rng *mathrand.Rand) func() {
	s.net.Isolate(s.victim(rng).host)
	return s.net.Heal
}

func (s *simulation) split(rng *mathrand.Rand) func() {
	all := s.shuffled(rng, nil)
	s.cut(all[:1+rng.IntN(len(all)-1)]...)
	return s.net.Heal
}

// deafen: the machine hears nobody, or nobody hears it.
func (s *simulation) deafen(rng *mathrand.Rand) func() {
	m, deaf := s.victim(rng), rng.IntN(2) == 0
	for _, o := range s.others(m) {
		if deaf {
			s.net.CutOneWay(o.host, m.host)
		} else {
			s.net.CutOneWay(m.host, o.host)
		}
	}
	return s.net.Heal
}

func (s *simulation) cutOneWay(rng *mathrand.Rand) func() {
	for range 1 + rng.IntN(len(s.machines)) {
		m := s.victim(rng)
		s.net.CutOneWay(m.host, s.shuffled(rng, m)[0].host)
	}
	return s.net.Heal
}

// bridge leaves one machine that reaches both sides.
func (s *simulation) bridge(rng *mathrand.Rand) func() {
	rest := s.shuffled(rng, s.victim(rng))
	half := (len(rest) + 1) / 2
	for _, a := range rest[:half] {
		for _, b := range rest[half:] {
			s.net.Cut(a.host, b.host)
		}
	}
	return s.net.Heal
}

func (s *simulation) powerCut(rng *mathrand.Rand) func() {
	s.victim(rng).crash([]int{0, 30, 70, 100}[rng.IntN(4)])
	return s.startStopped
}

func (s *simulation) powerCutAll(rng *mathrand.Rand) func() {
	for _, m := range s.machines[rng.IntN(2):] {
		m.crash([]int{0, 50}[rng.IntN(2)])
	}
	return s.startStopped
}

func (s *simulation) restart(rng *mathrand.Rand) func() {
	s.victim(rng).stop()
	return s.startStopped
}

func (s *simulation) startStopped() {
	for _, m := range s.machines {
		if m.running() == nil {
			m.start()
		}
	}
}

// slowLinks makes some links so slow that what is sent on several of them, or
// again, arrives in another order.
func (s *simulation) slowLinks(rng *mathrand.Rand) func() {
	for _, from := range s.machines {
		for _, to := range s.others(from) {
			if rng.IntN(3) == 0 {
				s.net.SetConditions(from.host, to.host, memnet.Conditions{
					Latency: time.Duration(rng.Int64N(int64(200 * time.Millisecond))), Jitter: 300 * time.Millisecond, Drop: rng.Float64() / 2,
				})
			}
		}
	}
	return func() {
		for _, from := range s.machines {
			for _, to := range s.others(from) {
				s.net.SetConditions(from.host, to.host, memnet.Conditions{Latency: 200 * time.Microsecond, Jitter: 100 * time.Microsecond})
			}
		}
	}
}

// resets break connections with all that is on its way: who asked has no
// answer, and what was asked may be done, and asked again.
func (s *simulation) resets(rng *mathrand.Rand) func() {
	for range 1 + rng.IntN(5) {
		m := s.any(rng)
		s.net.Reset(m.host, s.shuffled(rng, m)[0].host)
		time.Sleep(time.Duration(rng.Int64N(int64(100 * time.Millisecond))))
	}
	return nil
}

// clockJump sets a clock, but never the first machine's.
func (s *simulation) clockJump(rng *mathrand.Rand) func() {
	m := s.machines[1+rng.IntN(len(s.machines)-1)]
	far := []time.Duration{300 * time.Millisecond, 5 * time.Second, time.Hour}[rng.IntN(3)]
	s.clocks.set(m, time.Duration(rng.Int64N(int64(2*far)))-far)
	if rng.IntN(2) == 0 {
		return nil // for good
	}
	return func() { s.clocks.set(m, 0) }
}

// slowApply holds up the applying of one partition, or all, at a machine.
func (s *simulation) slowApply(rng *mathrand.Rand) func() {
	m := s.any(rng)
	if rng.IntN(2) == 0 {
		m = s.victim(rng)
	}
	only, every := partition.ID(rng.IntN(4)), rng.IntN(3) == 0
	for p := range partition.ID(4) {
		if every || p == only {
			// It ends by itself: a machine that is stopped meanwhile waits for it.
			s.delays.until(m, p, time.Now().Add(time.Duration(rng.Int64N(int64(longestDelay)))))
		}
	}
	return nil
}

// longestDelay is for how long applying is held up at most.
const longestDelay = 4 * time.Second

// delays hold up the applying of entries until a time, a machine and partition
// at a time.
type delays struct {
	lock sync.Mutex
	ends map[gate]time.Time
}

func (d *delays) guard(c *Config) {
	name := c.Name
	c.beforeApply = func(p partition.ID, _ []replication.Entry) {
		d.lock.Lock()
		end := d.ends[gate{name, p}]
		d.lock.Unlock()
		time.Sleep(time.Until(end))
	}
}

func (d *delays) until(m *machine, p partition.ID, end time.Time) {
	d.lock.Lock()
	defer d.lock.Unlock()
	if d.ends == nil {
		d.ends = map[gate]time.Time{}
	}
	d.ends[gate{m.name, p}] = end
}

// forget kills a machine without a replica of a partition, by preference, after a
// session has written there and its token leaves that out; the machine's first
// requests are that session's.
func (s *simulation) forget(rng *mathrand.Rand) func() {
	c := s.sessionClient(rng)
	key := simKey(rng.IntN(s.weather.keys))
	p := partition.Of([]byte(key), 4)
	var m *machine
	for _, m = range s.shuffled(rng, nil) {
		if n := m.running(); n == nil || n.replicas.replica(p) == nil {
			break
		}
	}
	at := s.shuffled(rng, m)[0].running()
	if m.running() == nil || at == nil {
		return nil
	}
	if o := c.write(at, key, linearizable, 0); o.Outcome != contract.OK {
		return nil
	}
	for range 5 {
		time.Sleep(time.Second)
		c.read(at, key, eventual, 1, 0, false)
	}
	m.crash([]int{0, 100}[rng.IntN(2)])
	m.start()
	c.write(m.running(), key, eventual, 1)
	c.read(m.running(), key, eventual, 1, 0, false)
	return nil
}

// hangDisk has a machine's disk hang under an eventual write of a session, and cuts
// its power before the disk goes on.
func (s *simulation) hangDisk(rng *mathrand.Rand) func() {
	c := s.sessionClient(rng)
	m := s.any(rng)
	p := m.running()
	if p == nil {
		return nil
	}
	s.disks.hang(m, time.Now().Add(requestTime))
	c.write(p, simKey(rng.IntN(s.weather.keys)), eventual, 1)
	m.crash(0)
	s.disks.hang(m, time.Time{})
	m.start()
	return nil
}

// sessionClient is a client with a session that goes on: look asks for it in the end.
func (s *simulation) sessionClient(rng *mathrand.Rand) *simClient {
	c := s.newClient(mathrand.New(mathrand.NewPCG(rng.Uint64(), 3)))
	c.sessions++
	c.talk, c.session = &talk{}, fmt.Sprintf("s%d.%d", c.number, c.sessions)
	s.sessions = append(s.sessions, c)
	return c
}

func (s *simulation) handover(rng *mathrand.Rand) func() {
	if p := s.any(rng).running(); p != nil {
		ctx, cancel := context.WithTimeout(context.Background(), requestTime)
		defer cancel()
		at := partition.ID(rng.IntN(4))
		_, _ = route(ctx, p.router, at, transferCall(at, ""))
	}
	return nil
}

// cutLog leaves so little of a log that who was away is sent a snapshot.
func (s *simulation) cutLog(rng *mathrand.Rand) func() {
	if p := s.any(rng).running(); p != nil {
		for _, here := range p.replicas.all() {
			if rng.IntN(2) == 0 {
				_ = here.group.CutLog(100)
			}
		}
	}
	return nil
}
