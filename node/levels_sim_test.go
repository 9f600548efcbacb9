package node

import (
	"cmp"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/jepsen/contract"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// simulation is a whole cluster, clients of all levels on it, and bad weather;
// and what the clients saw.
type simulation struct {
	*world
	clocks *skewed
	disks  *disks
	delays
	applied
	weather weather
	start   time.Time
	// sessions are clients that harms made; they are used by one goroutine.
	sessions []*simClient

	mu        sync.Mutex
	ops       []contract.Op
	processes int
	receipts  []string
	told      map[string]contract.Fate // fates that clients were told on the way
	end       contract.End
}

// weather is what kind of run a seed makes: which clients, and what is done to
// the nodes.
type weather struct {
	span    time.Duration // of virtual time, until the heal
	clients int
	keys    int
	pause   time.Duration // of a client between two operations, at most
	calm    time.Duration // between two harms, at most
	levels  [3]int        // weights of linearizable, bounded, eventual
	harms   []harm        // each as often as it is to be drawn
}

func weatherOf(rng *mathrand.Rand) weather {
	w := weather{
		span: 30 * time.Second, clients: 4 + rng.IntN(6), keys: 2 + rng.IntN(7),
		pause: time.Duration(60+rng.IntN(400)) * time.Millisecond,
		calm:  time.Duration(500+rng.IntN(3500)) * time.Millisecond,
		levels: [][3]int{
			{4, 1, 5}, {1, 1, 8}, {6, 1, 3}, {2, 3, 5},
		}[rng.IntN(4)],
	}
	for h := range harms {
		for range rng.IntN(4) { // some not at all
			w.harms = append(w.harms, harm(h))
		}
	}
	if len(w.harms) == 0 {
		w.harms = []harm{0}
	}
	return w
}

// Clients on all nodes mix all levels on a few keys, with sessions that hop,
// while links are cut, in one direction too, or are slow, machines lose their
// power and what was not synced, clocks jump, and the applying of entries is
// held up. Afterwards nothing may be left to decide, all replicas are equal,
// and the history keeps the contract.
func TestAllLevels(t *testing.T) {
	few := 5
	if raceDetector {
		few = 2
	}
	for _, size := range []int{3, 5} {
		for i := range seeds(few) {
			seed := firstSeed() + uint64(i)
			t.Run(fmt.Sprintf("nodes%d/seed%d", size, seed), func(t *testing.T) {
				s := &simulation{clocks: &skewed{}, disks: &disks{}, told: map[string]contract.Fate{}}
				synctest.Test(t, func(t *testing.T) { s.run(t, size, seed) })
				if !t.Failed() {
					s.judge(t)
				}
			})
		}
	}
}

func (s *simulation) run(t *testing.T, size int, seed uint64) {
	rng := mathrand.New(mathrand.NewPCG(seed, uint64(size)))
	s.weather = weatherOf(rng)
	s.world = newWorld(t, size, seed, s.delays.guard, s.clocks.clock, s.disks.attach, s.applied.watch)
	defer s.close()
	s.formed()
	s.start = time.Now()
	var clients sync.WaitGroup
	for i := range s.weather.clients {
		c := s.newClient(mathrand.New(mathrand.NewPCG(seed, uint64(100+i))))
		clients.Go(func() {
			for s.now() < s.weather.span {
				time.Sleep(time.Duration(c.rng.Int64N(int64(s.weather.pause))))
				c.once()
			}
		})
	}
	s.disturbFor(s.weather.span, rng)
	clients.Wait()
	s.settle()
	s.look()
}

func (s *simulation) now() time.Duration { return time.Since(s.start) }

// settle waits until nothing is under way any more.
func (s *simulation) settle() {
	s.t.Helper()
	s.awaitReady(s.machines...)
	s.awaitNoBacklog()
	s.compareHolders()
	for p := range s.machines[0].running().ring().Partitions { // as the nodes do it
		s.machines[0].mustCompare(partition.ID(p), equal)
	}
	s.eventually(time.Minute, "the tentative logs are empty", func() error {
		for _, m := range s.machines {
			if use := m.running().log.TentativeUse(); use.DiskBytes > 0 {
				return fmt.Errorf("%s holds %d bytes", m.name, use.DiskBytes)
			}
		}
		return nil
	})
}

// look is what a last client sees: every key at every node and level, the fate
// of every write and the conflicts.
func (s *simulation) look() {
	s.t.Helper()
	c := s.newClient(mathrand.New(mathrand.NewPCG(s.seed, 99)))
	for i := range s.weather.keys {
		for _, m := range s.machines {
			for _, level := range []capstanv1.Consistency{linearizable, eventual} {
				if o := c.read(m.running(), simKey(i), level, 1, 0, false); o.Outcome != contract.OK {
					s.t.Fatalf("after the heal: %v", o)
				}
			}
		}
	}
	// No session is left waiting for what nobody has.
	for _, c := range s.sessions {
		for _, level := range []capstanv1.Consistency{linearizable, eventual} {
			for i := range s.weather.keys {
				if o := c.read(s.machines[i%len(s.machines)].running(), simKey(i), level, 1, 0, false); o.Outcome != contract.OK {
					s.t.Errorf("after the heal, in a session: %v", o)
				}
			}
		}
	}
	s.end.Fates = map[string]contract.Fate{}
	for i, receipt := range s.receipts {
		r, err := s.machines[i%len(s.machines)].await(receipt, 0)
		if err != nil {
			s.t.Fatalf("fate of %s: %v", receipt, err)
		}
		s.end.Fates[receipt] = fateIn(r)
	}
	s.forgetUnstored()
	for i, m := range s.machines {
		list, err := m.conflicts("")
		if err != nil {
			s.t.Fatal(err)
		}
		found := conflictsIn(list)
		if i == 0 {
			s.end.Conflicts = found
		} else if !slices.Equal(found, s.end.Conflicts) {
			s.t.Errorf("%s lists other conflicts than %s", m.name, s.machines[0].name)
		}
	}
	// The first machine's clock was always right, and moved by nobody beyond the
	// bound.
	held := s.machines[0].running().replicas.all()
	if len(held) == 0 {
		return
	}
	plain := s.machines[0].mustWrite(ask{level: eventual}, keyIn(held[0].partition, 4, 99), "v")
	if at := hlc.Timestamp(plain.GetVersion().GetTimestamp()).Time(); at.After(time.Now().Add(DefaultMaxClockOffset)) {
		s.t.Errorf("a write of a new key is dated %v, the clock says %v", at, time.Now())
	}
}

// forgetUnstored takes the receipts from writes of unknown outcome that are pending
// in the end: no log holds any write, so they never reached a disk.
func (s *simulation) forgetUnstored() {
	for i := range s.ops {
		o := &s.ops[i]
		if f := s.end.Fates[o.Receipt]; o.Receipt != "" && o.Outcome == contract.Unknown && f.Kind == contract.FateKind(capstanv1.Fate_FATE_PENDING) {
			delete(s.end.Fates, o.Receipt)
			o.Receipt, o.Base, o.Version = "", 0, contract.Version{}
		}
	}
}

// judge holds the history against the contract.
func (s *simulation) judge(t *testing.T) {
	for receipt, told := range s.told {
		if now := s.end.Fates[receipt]; now != told {
			t.Errorf("a client was told %v, then %v", told, now)
		}
	}
	for _, err := range s.applied.wrong {
		t.Error(err)
	}
	s.applied.resolve(s.ops)
	history := &contract.History{Ops: s.ops, End: &s.end}
	t.Logf("%s", s.summary())
	violations := contract.Check(history, checkPatience)
	for i, v := range violations {
		if i == 3 {
			t.Errorf("and %d more", len(violations)-i)
			break
		}
		t.Errorf("%v", v)
	}
	if len(violations) > 0 && os.Getenv("CAPSTAN_TEST_LOG") != "" {
		t.Logf("%s", s.journal.String())
		for _, o := range s.ops {
			if v := violations[0]; o.Key == v.Key || o.Session != "" && o.Session == v.Ops[0].Session {
				t.Log(o, s.end.Fates[o.Receipt])
			}
		}
	}
}

func (s *simulation) summary() string {
	count := map[string]int{}
	for _, o := range s.ops {
		kind := [...]string{"get", "put", "delete"}[o.Kind]
		level := [...]string{"linearizable", "bounded", "eventual"}[o.Level]
		outcome := [...]string{"ok", "failed", "unknown", "mismatch"}[o.Outcome]
		count[level+" "+kind+" "+outcome]++
	}
	for _, f := range s.end.Fates {
		count["fate "+f.Kind.String()]++
	}
	count["conflicts"] = len(s.end.Conflicts)
	var parts []string
	for what, n := range count {
		parts = append(parts, fmt.Sprintf("%s %d", what, n))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

func simKey(i int) string { return keyIn(partition.ID(i%4), 4, i) }

func versionIn(v *capstanv1.Version) contract.Version {
	return contract.Version{Index: v.GetIndex(), Timestamp: v.GetTimestamp(), Node: v.GetNode()}
}

func fateIn(r *capstanv1.AwaitWriteResponse) contract.Fate {
	return contract.Fate{Kind: contract.FateKind(r.GetFate()), Version: versionIn(r.GetVersion())}
}

func conflictsIn(list []*capstanv1.Conflict) []contract.Conflict {
	var out []contract.Conflict
	for _, c := range list {
		out = append(out, contract.Conflict{
			Key: string(c.GetKey()), Value: string(c.GetLosingValue()), Delete: c.GetLosingDelete(),
			Losing: versionIn(c.GetLosingVersion()), Winning: versionIn(c.GetWinningVersion()),
			StaleBase: c.GetCause() == capstanv1.ConflictCause_CONFLICT_CAUSE_STALE_BASE,
		})
	}
	slices.SortFunc(out, func(a, b contract.Conflict) int {
		return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Losing.Timestamp, b.Losing.Timestamp), cmp.Compare(a.Losing.Node, b.Losing.Node))
	})
	return out
}
