package storage

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// tentativeModel is a tentative log as plain maps.
type tentativeModel struct {
	held    map[Dot]TentativeWrite
	settled map[Dot]uint64 // with the index of their promotion
	known   map[Dot]TentativeWrite
	// gone are those whose removal may not be durable yet, with the fate floor
	// that went with it, 0 if none.
	gone                    map[Dot]uint64
	heard, durableHeard     uint64
	fateFloor, durableFloor uint64
	lastDot                 map[partition.NodeID]uint64
}

func newTentativeModel() *tentativeModel {
	return &tentativeModel{
		held: map[Dot]TentativeWrite{}, settled: map[Dot]uint64{}, known: map[Dot]TentativeWrite{}, gone: map[Dot]uint64{},
		lastDot: map[partition.NodeID]uint64{},
	}
}

// synced: all that was written so far is durable.
func (m *tentativeModel) synced() {
	clear(m.gone)
	m.durableHeard, m.durableFloor = m.heard, m.fateFloor
}

func (m *tentativeModel) sorted() []TentativeWrite {
	var all []TentativeWrite
	for _, w := range m.held {
		all = append(all, w)
	}
	slices.SortFunc(all, func(a, b TentativeWrite) int { return a.Dot.Compare(b.Dot) })
	return all
}

func (m *tentativeModel) draw(rt *rapid.T) TentativeWrite {
	if len(m.known) > 0 && rapid.IntRange(0, 3).Draw(rt, "again") == 0 {
		return m.pick(rt, "known", m.known)
	}
	node := rapid.SampledFrom([]partition.NodeID{"n2-bbbb", "n3-cccc", "n10-d"}).Draw(rt, "node")
	m.lastDot[node] += uint64(rapid.IntRange(1, 2).Draw(rt, "gap"))
	w := TentativeWrite{
		Tentative: Tentative{
			Dot: Dot{node, 7, m.lastDot[node]}, Base: uint64(rapid.IntRange(0, 40).Draw(rt, "base")),
			Timestamp: hlc.Timestamp(rapid.IntRange(1, 30).Draw(rt, "timestamp")), Delete: rapid.Bool().Draw(rt, "delete"),
			Key: fmt.Append(nil, "k", rapid.IntRange(0, 4).Draw(rt, "key")),
		},
		Hint: rapid.Bool().Draw(rt, "hint"),
	}
	if !w.Delete {
		w.Bytes = []byte(rapid.StringN(0, 3, -1).Draw(rt, "value"))
	}
	m.known[w.Dot] = w
	return w
}

func (m *tentativeModel) pick(rt *rapid.T, label string, from map[Dot]TentativeWrite) TentativeWrite {
	dots := make([]Dot, 0, len(from))
	for d := range from {
		dots = append(dots, d)
	}
	slices.SortFunc(dots, Dot.Compare)
	return from[rapid.SampledFrom(dots).Draw(rt, label)]
}

// TestTentativeAgainstModel runs random operations on a log and on a model,
// with power cuts and reopenings in between: they agree always, and after a
// cut as far as anything was promised.
func TestTentativeAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		fs := vfs.NewCrashableMem()
		l := openTestLog(t, fs)
		defer func() { _ = l.Close() }()
		tl := mustTentative(t, l, testPartition)
		beside := remote("n2-bbbb", 1, 3, 3, "k", "beside")
		for _, p := range []partition.ID{testPartition - 1, testPartition + 1} {
			mustDo(t, mustTentative(t, l, p).Append([]TentativeWrite{beside}))
		}
		m := newTentativeModel()
		index := uint64(40) // bases are at most this
		for step := range rapid.IntRange(1, 30).Draw(rt, "steps") {
			index++
			switch rapid.IntRange(0, 9).Draw(rt, "op") {
			case 0, 1, 2:
				var add []TentativeWrite
				fresh := false
				for range rapid.IntRange(1, 5).Draw(rt, "writes") {
					w := m.draw(rt)
					add = append(add, w)
					_, held := m.held[w.Dot]
					_, settled := m.settled[w.Dot]
					if !held && !settled {
						m.held[w.Dot], fresh = w, true
						m.heard = max(m.heard, w.Base)
					}
				}
				mustDo(t, tl.Append(add))
				if fresh {
					m.synced()
				}
			case 3:
				m.heard = max(m.heard, index)
				tl.Hear(index)
			case 4:
				if len(m.known) > 0 {
					d := m.pick(rt, "settle", m.known).Dot
					tl.Settle([]Dot{d}, index)
					if _, ok := m.held[d]; ok {
						delete(m.held, d)
						m.settled[d] = index
					}
				}
			case 5:
				durable := index - uint64(rapid.IntRange(0, 5).Draw(rt, "behind"))
				mustDo(t, tl.EraseSettled(durable))
				for d, at := range m.settled {
					if at <= durable {
						delete(m.settled, d)
						m.gone[d] = 0
					}
				}
			case 6:
				if len(m.known) > 0 {
					d := m.pick(rt, "forget", m.known).Dot
					mustDo(t, tl.Forget([]Dot{d}, index))
					_, held := m.held[d]
					_, settled := m.settled[d]
					if held || settled {
						delete(m.held, d)
						delete(m.settled, d)
						m.fateFloor = index
						m.heard = max(m.heard, index)
						m.gone[d] = index
					}
				}
			case 7:
				applied := uint64(rapid.IntRange(1, int(index)).Draw(rt, "applied"))
				mustDo(t, tl.HandOver(applied))
				for d, at := range m.settled {
					applied = max(applied, at)
					delete(m.settled, d)
				}
				m.fateFloor = max(m.fateFloor, applied)
				m.heard = max(m.heard, m.fateFloor)
				m.synced()
			case 8:
				got, err := tl.UndecidedBase()
				mustDo(t, err)
				if m.heard > m.durableHeard {
					m.synced()
				}
				want := m.heard
				for _, w := range m.held {
					want = min(want, w.Base)
				}
				if got != want {
					rt.Fatalf("undecided base %d, want %d", got, want)
				}
			case 9:
				if rapid.Bool().Draw(rt, "power cut") {
					crashed := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(uint64(step), 5))})
					mustDo(t, l.Close())
					fs = crashed
				} else {
					mustDo(t, l.Close())
					m.synced()
				}
				l = openTestLog(t, fs)
				tl = mustTentative(t, l, testPartition)
				m.reopened(rt, tl)
			}
			m.check(rt, tl)
			checkIndexEqualsDisk(t, tl)
		}
		for _, p := range []partition.ID{testPartition - 1, testPartition + 1} {
			checkHeld(t, mustTentative(t, l, p), beside)
		}
	})
}

// reopened compares what was promised with what came back, and goes on from it.
func (m *tentativeModel) reopened(rt *rapid.T, tl *TentativeLog) {
	back := map[Dot]TentativeWrite{}
	for _, w := range mustBatch(rt, tl) {
		back[w.Dot] = w
		_, held := m.held[w.Dot]
		_, settled := m.settled[w.Dot]
		_, gone := m.gone[w.Dot]
		if !held && !settled && !gone {
			rt.Fatalf("%s came from nowhere", w.Dot)
		}
	}
	for d := range m.held {
		if _, ok := back[d]; !ok {
			rt.Fatalf("%s was lost", d)
		}
	}
	for d := range m.settled {
		if _, ok := back[d]; !ok {
			rt.Fatalf("%s was erased though the state is not known to be durable", d)
		}
	}
	floor, heard := tl.FateFloor(), tl.Heard()
	for d, at := range m.gone {
		if _, ok := back[d]; !ok && floor < at {
			rt.Fatalf("%s is forgotten, but the fate floor is %d, not %d", d, floor, at)
		}
	}
	if floor < m.durableFloor || floor > m.fateFloor {
		rt.Fatalf("fate floor %d, not %d to %d", floor, m.durableFloor, m.fateFloor)
	}
	if heard < m.durableHeard || heard > m.heard || heard < floor {
		rt.Fatalf("heard %d, not %d to %d", heard, m.durableHeard, m.heard)
	}
	m.held, m.heard, m.fateFloor = back, heard, floor
	clear(m.settled)
	m.synced()
	m.durableHeard = tl.heardSaved
}

func (m *tentativeModel) check(rt *rapid.T, tl *TentativeLog) {
	all := m.sorted()
	if got := mustBatch(rt, tl); !slices.EqualFunc(got, all, sameWrite) {
		rt.Fatalf("held:\n%+v\nwant:\n%+v", got, all)
	}
	want := TentativeBacklog{Settled: len(m.settled)}
	keys := map[string][]Tentative{}
	for _, w := range all {
		want.Count++
		if w.Hint {
			want.Hints++
		}
		want.Bytes += w.cost().disk
		if want.OldestTimestamp == 0 || w.Timestamp < want.OldestTimestamp {
			want.OldestTimestamp = w.Timestamp
		}
		keys[string(w.Key)] = append(keys[string(w.Key)], w.Tentative)
		if !tl.Holds(w.Dot) {
			rt.Fatalf("%s is not held", w.Dot)
		}
		if got, err := tl.Read(w.Dot); err != nil || !sameWrite(got, w) {
			rt.Fatalf("%+v, %v, want %+v", got, err, w)
		}
	}
	if got := tl.Backlog(); got != want {
		rt.Fatalf("%+v, want %+v", got, want)
	}
	if tl.Heard() != m.heard || tl.FateFloor() != m.fateFloor {
		rt.Fatalf("heard %d and fate floor %d, want %d and %d", tl.Heard(), tl.FateFloor(), m.heard, m.fateFloor)
	}
	scanned := tl.Scan(nil, nil, 100)
	if len(scanned) != len(keys) || !slices.IsSortedFunc(scanned, func(a, b TentativeKey) int { return cmp.Compare(string(a.Key), string(b.Key)) }) {
		rt.Fatalf("scanned %+v, want %d keys", scanned, len(keys))
	}
	for _, s := range scanned {
		m.checkCandidates(rt, s.Candidates, keys[string(s.Key)])
		m.checkCandidates(rt, tl.Candidates(s.Key), keys[string(s.Key)])
		newest := slices.MaxFunc(keys[string(s.Key)], func(a, b Tentative) int { return cmp.Compare(a.Timestamp, b.Timestamp) }).Timestamp
		if got := tl.Newest(s.Key); got != newest {
			rt.Fatalf("newest of %s is %d, want %d", s.Key, got, newest)
		}
	}
	summary := tl.Summary()
	if summary.Len() != uint64(len(all)) || slices.ContainsFunc(all, func(w TentativeWrite) bool { return !summary.Has(w.Dot) }) {
		rt.Fatalf("summary %s of %+v", summary, all)
	}
}

// checkCandidates: whatever the replica holds, the candidates give the same
// winner as all writes of the key, and none of them is there for nothing.
func (m *tentativeModel) checkCandidates(rt *rapid.T, candidates, all []Tentative) {
	same := func(held *Value, floor uint64) {
		a, b := Winner(held, floor, candidates), Winner(held, floor, all)
		if (a == nil) != (b == nil) || a != nil && a.Dot != b.Dot {
			rt.Fatalf("over %+v with floor %d, %+v wins among the candidates, %+v among all of\n%+v", held, floor, a, b, all)
		}
	}
	used := map[Dot]bool{}
	for at := uint64(0); at <= 41; at += 3 {
		same(nil, at)
		linearizable := &Value{Version: Version{at, 20, "n2-bbbb"}, Linearizable: true, LinearizableIndex: at}
		same(linearizable, 0)
		same(linearizable, 10)
		same(&Value{Version: Version{at, 15, "n2-bbbb"}, LinearizableIndex: at / 2, Dot: Dot{"n2-bbbb", 7, 1000}}, 0)
	}
	for at := range uint64(41) {
		if w := Winner(nil, at, candidates); w != nil {
			used[w.Dot] = true
		}
	}
	if len(used) != len(candidates) {
		rt.Fatalf("%d of %d candidates may win: %+v", len(used), len(candidates), candidates)
	}
}
