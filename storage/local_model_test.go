package storage

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// localModel is one node in the plainest way: its tentative log as a map. The
// committed state is the replica's own, which other tests check.
type localModel struct {
	local     Local
	held      map[Dot]Tentative
	fateFloor uint64
}

func newLocalModel(t testing.TB, rt *rapid.T) *localModel {
	l := openTestLog(t, vfs.NewMem())
	s := openState(rt, vfs.NewMem())
	rt.Cleanup(func() {
		mustDo(t, l.Close())
		ok(rt, s.Close())
	})
	return &localModel{
		local: Local{State: replicaOf(rt, s, stateReplica), Log: mustTentative(t, l, testPartition)},
		held:  map[Dot]Tentative{},
	}
}

func (m *localModel) applied() uint64 {
	index, _ := m.local.State.Applied()
	return index
}

// undecided is what the node can show of a key beside the state.
func (m *localModel) undecided(key string) []Tentative {
	var all []Tentative
	for d, w := range m.held {
		if string(w.Key) == key && !m.local.State.PromotedHas(d) && !m.local.State.Forfeited(d.Node) {
			all = append(all, w)
		}
	}
	return all
}

// shown is what a reader is to be shown.
type shown struct {
	found   bool
	value   string
	version Version
}

// expect is by the definition: all writes, and the rule.
func expect(rt *rapid.T, state *ReplicaState, key string, writes []Tentative) shown {
	v, found, err := state.Get([]byte(key))
	ok(rt, err)
	var held *Value
	if found {
		held = &v
	}
	switch t := Winner(held, state.Floor(), writes); {
	case t != nil:
		return shown{!t.Delete, string(t.Bytes), t.Version(0)}
	case held != nil:
		return shown{!held.Tombstone, string(held.Bytes), held.Version}
	}
	return shown{}
}

func shownOf(e *LocalEntry) shown { return shown{e.Found, string(e.Bytes), e.Version} }

var localKeys = []string{"a", "b", "b\x00", "c", "d"}

func (m *localModel) draw(rt *rapid.T, sequence uint64) Tentative {
	node := rapid.SampledFrom([]partition.NodeID{"n1-aaaa", "n2-bbbb", "n3-cccc"}).Draw(rt, "node")
	w := Tentative{
		Dot: Dot{node, 7, sequence}, Base: rapid.Uint64Range(0, m.applied()).Draw(rt, "base"),
		Timestamp: hlc.Timestamp(rapid.IntRange(1, 20).Draw(rt, "timestamp")),
		Delete:    rapid.IntRange(0, 3).Draw(rt, "delete") == 0, Key: []byte(rapid.SampledFrom(localKeys).Draw(rt, "key")),
	}
	if !w.Delete {
		w.Bytes = []byte(rapid.StringN(0, 3, -1).Draw(rt, "value"))
	}
	return w
}

func (m *localModel) add(rt *rapid.T, w Tentative) {
	ok(rt, m.local.Log.Append([]TentativeWrite{{Tentative: w}}))
	m.held[w.Dot] = w
}

// some gives a part of the writes, in the order of their dots.
func some(rt *rapid.T, from map[Dot]Tentative) (dots []Dot, writes []Tentative) {
	var all []Dot
	for d := range from {
		all = append(all, d)
	}
	slices.SortFunc(all, Dot.Compare)
	for _, d := range all {
		if rapid.Bool().Draw(rt, "this") {
			dots, writes = append(dots, d), append(writes, from[d])
		}
	}
	return dots, writes
}

// entryFor is any command.
func entryFor(rt *rapid.T, index uint64, all map[Dot]Tentative) ApplyEntry {
	switch rapid.IntRange(0, 5).Draw(rt, "command") {
	case 0:
		return logged(rt, index, rapid.Uint64Range(1, index).Draw(rt, "floor"))
	case 1:
		return entry(rt, index, put(rapid.SampledFrom(localKeys).Draw(rt, "key"), "lin"))
	case 2:
		return entry(rt, index, del(rapid.SampledFrom(localKeys).Draw(rt, "key")))
	case 3:
		if rapid.IntRange(0, 5).Draw(rt, "forfeit") == 0 {
			return logged(rt, index, partition.NodeID("n3-cccc"))
		}
		fallthrough
	default:
		if _, writes := some(rt, all); len(writes) > 0 {
			return logged(rt, index, promotionOf(writes...))
		}
		return entry(rt, index, put("x", "nothing else"))
	}
}

// Whatever is accepted, applied, settled and told: a node shows what the rules
// say, key by key and in pages.
func TestLocalReadsAreWhatTheRulesSay(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := newLocalModel(t, rt)
		all := map[Dot]Tentative{} // ever made
		for step := range uint64(rapid.IntRange(1, 25).Draw(rt, "steps")) {
			switch rapid.IntRange(0, 6).Draw(rt, "op") {
			case 0, 1, 2:
				w := m.draw(rt, step+1)
				all[w.Dot] = w
				if !m.local.State.PromotedHas(w.Dot) {
					m.add(rt, w)
				}
			case 3, 4:
				_, err := m.local.State.Apply([]ApplyEntry{entryFor(rt, m.applied()+1, all)})
				ok(rt, err)
			case 5: // all that was decided, or a part
				for d := range m.held {
					if m.local.State.PromotedHas(d) {
						m.local.Log.Settle([]Dot{d}, m.applied())
						delete(m.held, d)
					}
				}
			case 6: // told of a fate, which may be ahead of the state
				dots, _ := some(rt, m.held)
				index := m.applied() + uint64(rapid.IntRange(0, 2).Draw(rt, "ahead"))
				ok(rt, m.local.Log.Forget(dots, index))
				if len(dots) > 0 {
					m.fateFloor = max(m.fateFloor, index)
				}
				for _, d := range dots {
					delete(m.held, d)
				}
			}
			m.check(rt)
		}
	})
}

func (m *localModel) check(rt *rapid.T) {
	behind := m.applied() < m.fateFloor
	var want []shown
	var keys []string
	for _, key := range localKeys {
		r, err := m.local.Read([]byte(key))
		if behind != errors.Is(err, ErrBehind) || err != nil && !behind {
			rt.Fatalf("applied %d, fate floor %d: %v", m.applied(), m.fateFloor, err)
		}
		expected := shown{}
		if behind {
			if t := Winner(nil, 0, m.undecidedAlone(key)); t != nil {
				expected = shown{!t.Delete, string(t.Bytes), t.Version(0)}
			}
		} else {
			expected = expect(rt, m.local.State, key, m.undecided(key))
		}
		if got := shownOf(&r.LocalEntry); got != expected {
			rt.Fatalf("key %q: read %v, want %+v of %+v", key, &r, expected, m.undecided(key))
		}
		merged, err := m.local.ReadToMerge([]byte(key))
		if err != nil && !behind {
			rt.Fatal(err)
		}
		encoded := AppendLocalRead(nil, &merged)
		back, err := DecodeLocalRead(encoded)
		if err != nil || shownOf(&back.LocalEntry) != expected || back.LocalState != merged.LocalState {
			rt.Fatalf("key %q: %v came back as %v, %v", key, &merged, &back, err)
		}
		if expected.found {
			keys, want = append(keys, key), append(want, expected)
		}
		newest, err := m.local.Newest([]byte(key))
		ok(rt, err)
		if newest != m.newest(rt, key) {
			rt.Fatalf("key %q: newest %d, want %d", key, newest, m.newest(rt, key))
		}
	}
	m.checkScan(rt, behind, keys, want)
	m.checkMissing(rt)
}

// undecidedAlone is what the log alone holds.
func (m *localModel) undecidedAlone(key string) []Tentative {
	var all []Tentative
	for _, w := range m.held {
		if string(w.Key) == key {
			all = append(all, w)
		}
	}
	return all
}

func (m *localModel) newest(rt *rapid.T, key string) hlc.Timestamp {
	v, _, err := m.local.State.Get([]byte(key))
	ok(rt, err)
	newest := v.Version.Timestamp
	for _, w := range m.undecidedAlone(key) {
		newest = max(newest, w.Timestamp)
	}
	return newest
}

func (m *localModel) checkScan(rt *rapid.T, behind bool, keys []string, want []shown) {
	o := ScanOptions{Limit: rapid.IntRange(0, 3).Draw(rt, "limit"), KeysOnly: rapid.Bool().Draw(rt, "keys only")}
	if rapid.Bool().Draw(rt, "range") {
		o.Start, o.End = []byte("b"), []byte("d")
	}
	inside := func(key string) bool {
		return key >= string(o.Start) && (o.End == nil || key < string(o.End)) && key != "x"
	}
	var got []string
	var values []shown
	for more := true; more; {
		page, err := m.local.Scan(o)
		if err != nil && (!behind || !errors.Is(err, ErrBehind)) {
			rt.Fatal(err)
		}
		n := 0
		for e := range page.Live() {
			n++
			if string(e.Key) == "x" {
				continue
			}
			got, values = append(got, string(e.Key)), append(values, shownOf(e))
		}
		if o.Limit > 0 && n > o.Limit || page.More && bytes.Compare(page.Next, o.Start) <= 0 {
			rt.Fatalf("page from %q of %d: %+v", o.Start, o.Limit, page)
		}
		back, err := DecodeLocalPage(AppendLocalPage(nil, &page))
		if err != nil || len(back.Entries) != len(page.Entries) {
			rt.Fatalf("%+v came back as %+v, %v", page, back, err)
		}
		for i := range back.Entries {
			if shownOf(&back.Entries[i]) != shownOf(&page.Entries[i]) {
				rt.Fatalf("%+v came back as %+v", page.Entries[i], back.Entries[i])
			}
		}
		o.Start, more = page.Next, page.More
	}
	o.Start = nil
	var expected []string
	var expectedValues []shown
	for i, key := range keys {
		if inside(key) && (o.End == nil || key >= "b") {
			if o.KeysOnly {
				want[i].value = ""
			}
			expected, expectedValues = append(expected, key), append(expectedValues, want[i])
		}
	}
	if !slices.Equal(got, expected) || !slices.Equal(values, expectedValues) {
		rt.Fatalf("scan %q %+v, want %q %+v", got, values, expected, expectedValues)
	}
}

func (m *localModel) checkMissing(rt *rapid.T) {
	var asked []DotRange
	var want []string
	for _, node := range []partition.NodeID{"n1-aaaa", "n3-cccc"} {
		r := DotRange{node, 7, rapid.Uint64Range(1, 12).Draw(rt, "first"), rapid.Uint64Range(12, 26).Draw(rt, "last")}
		asked = append(asked, r)
		for n := r.First; n <= r.Last; n++ {
			d := Dot{node, 7, n}
			_, held := m.held[d]
			if !held && !m.local.State.PromotedHas(d) && !m.local.State.Forfeited(node) {
				want = append(want, d.String())
			}
		}
	}
	var got []string
	for _, r := range m.local.Missing(asked) {
		for n := r.First; n <= r.Last; n++ {
			got = append(got, Dot{r.Node, r.Incarnation, n}.String())
		}
	}
	if !slices.Equal(got, want) {
		rt.Fatalf("missing %v, want %v", got, want)
	}
}

// Two nodes with the same log, one of them behind, and each with writes of its
// own; and either without a replica. In whatever order their answers are
// merged, and over the wire: the state that is ahead, and everybody's writes.
func TestMergedReadsAreWhatTheRulesSay(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		nodes := []*localModel{newLocalModel(t, rt), newLocalModel(t, rt)}
		all := map[Dot]Tentative{}
		for step := range uint64(rapid.IntRange(1, 20).Draw(rt, "steps")) {
			if rapid.Bool().Draw(rt, "write") {
				w := nodes[0].draw(rt, step+1)
				all[w.Dot] = w
				for _, m := range nodes {
					if rapid.Bool().Draw(rt, "holds") && !m.local.State.PromotedHas(w.Dot) {
						m.add(rt, w)
					}
				}
				continue
			}
			e := entryFor(rt, nodes[0].applied()+1, all)
			for i, m := range nodes {
				if i == 1 && (m.applied() != e.Index-1 || rapid.Bool().Draw(rt, "stays behind")) {
					continue
				}
				_, err := m.local.State.Apply([]ApplyEntry{e})
				ok(rt, err)
			}
		}
		locals := []Local{nodes[0].local, nodes[1].local}
		ahead := nodes[0]
		switch rapid.IntRange(0, 2).Draw(rt, "without replica") {
		case 1:
			locals[0].State, ahead = nil, nodes[1]
		case 2:
			locals[1].State = nil
		}
		undecided := func(i int, key string) []Tentative {
			if locals[i].State == nil {
				return nodes[i].undecidedAlone(key)
			}
			return nodes[i].undecided(key)
		}
		overTheWire := rapid.Bool().Draw(rt, "over the wire")
		var want []string
		for _, key := range localKeys {
			var reads []LocalRead
			for _, l := range locals {
				r, err := l.ReadToMerge([]byte(key))
				ok(rt, err)
				if overTheWire {
					if r, err = DecodeLocalRead(AppendLocalRead(nil, &r)); err != nil {
						rt.Fatal(err)
					}
				}
				reads = append(reads, r)
			}
			expected := expect(rt, ahead.local.State, key, append(undecided(0, key), undecided(1, key)...))
			for _, m := range []LocalRead{
				MergeReads(reads[0], reads[1]), MergeReads(reads[1], reads[0]), MergeReads(MergeReads(reads[1], reads[1]), reads[0]),
			} {
				if got := shownOf(&m.LocalEntry); got != expected || !m.State || m.Applied != ahead.applied() {
					rt.Fatalf("key %q: merged %v of %v and %v, want %+v", key, &m, &reads[0], &reads[1], expected)
				}
			}
			if expected.found {
				want = append(want, fmt.Sprintf("%s=%v", key, expected))
			}
		}
		var got []string
		limits := []int{rapid.IntRange(0, 3).Draw(rt, "limit"), rapid.IntRange(0, 3).Draw(rt, "limit")}
		for start, more := []byte(nil), true; more; {
			var pages []LocalPage
			for i, l := range locals {
				p, err := l.Scan(ScanOptions{Start: start, Limit: limits[i]})
				ok(rt, err)
				if overTheWire {
					if p, err = DecodeLocalPage(AppendLocalPage(nil, &p)); err != nil {
						rt.Fatal(err)
					}
				}
				pages = append(pages, p)
			}
			m := MergePages(pages[0], pages[1])
			if rapid.Bool().Draw(rt, "turned round") {
				m = MergePages(pages[1], pages[0])
			}
			for e := range m.Live() {
				if string(e.Key) == "x" {
					continue
				}
				if err := locals[0].Complete(e); err != nil {
					ok(rt, locals[1].Complete(e))
				}
				got = append(got, fmt.Sprintf("%s=%v", e.Key, shownOf(e)))
			}
			start, more = m.Next, m.More
		}
		if !slices.Equal(got, want) {
			rt.Fatalf("scan of both %q, want %q", got, want)
		}
	})
}
