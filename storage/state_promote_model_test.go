package storage

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// promotionModel is what promotions come to, as maps and lists.
type promotionModel struct {
	limits    ledgerLimits
	collect   uint64
	lived     time.Duration
	listed    []time.Duration // lived, when each of conflicts was listed
	applied   uint64
	floor     uint64
	keys      map[string]Value
	promoted  map[Dot]bool
	fates     map[Dot]Fate
	pages     [][]Dot
	forfeited map[partition.NodeID]uint64
	conflicts []Conflict // the oldest first
	dropped   uint64
	places    map[modelPlace]bool
	// linearizable are the last linearizable writes of keys.
	linearizable map[string]Version
}

// modelPlace is where a tombstone was written.
type modelPlace struct {
	index uint64
	key   string
}

func newPromotionModel(limits ledgerLimits) *promotionModel {
	return &promotionModel{
		limits: limits, collect: collectLimit, keys: map[string]Value{}, promoted: map[Dot]bool{}, fates: map[Dot]Fate{},
		forfeited: map[partition.NodeID]uint64{}, places: map[modelPlace]bool{},
		linearizable: map[string]Version{},
	}
}

func (m *promotionModel) set(key string, v Value) {
	m.keys[key] = v
	if v.Tombstone {
		m.places[modelPlace{v.Version.Index, key}] = true
	}
}

func (m *promotionModel) apply(index uint64, commands []any) (results []CommandResult) {
	m.applied = index
	before := maps.Clone(m.places)
	for _, c := range commands {
		switch c := c.(type) {
		case Command:
			results = append(results, m.write(index, c))
		case Promotion:
			results = append(results, CommandResult{Promoted: m.promote(index, c)})
		case uint64:
			m.raise(index, c, before)
			results = append(results, CommandResult{})
		case partition.NodeID:
			if _, done := m.forfeited[c]; !done {
				m.forfeited[c] = index
			}
			results = append(results, CommandResult{})
		}
	}
	return results
}

func (m *promotionModel) write(index uint64, c Command) CommandResult {
	lin := modelReplica{keys: map[string]modelValue{}}
	if v, there := m.keys[string(c.Key)]; there {
		lin.keys[string(c.Key)] = modelValue{version: v.Version, tombstone: v.Tombstone}
	}
	result := lin.apply(index, c)
	if !result.ConditionFailed {
		m.linearizable[string(c.Key)] = result.Version
		m.set(string(c.Key), Value{
			Version: result.Version, Tombstone: c.Kind == CommandDelete, Linearizable: true, LinearizableIndex: index, Bytes: c.Value,
		})
	}
	return result
}

func (m *promotionModel) promote(index uint64, p Promotion) *PromotionResult {
	result := &PromotionResult{Index: index}
	m.lived = max(m.lived, p.Lived)
	var page []Dot
	for _, t := range p.Writes {
		f, now := m.one(index, t, p.Now)
		result.Fates = append(result.Fates, FateOf{t.Dot, f})
		if now {
			page = append(page, t.Dot)
		}
	}
	if len(page) > 0 {
		m.pages = append(m.pages, page)
		for count := m.fateCount(); uint64(count) > m.limits.fates; count = m.fateCount() {
			for _, d := range m.pages[0] {
				delete(m.fates, d)
			}
			m.pages = m.pages[1:]
		}
	}
	for len(m.listed) < len(m.conflicts) {
		m.listed = append(m.listed, m.lived)
	}
	dropped := uint64(0)
	for len(m.conflicts) > 0 {
		bytes := uint64(0)
		for _, c := range m.conflicts {
			bytes += uint64(len(c.Key) + len(c.Value) + conflictOverheadBytes)
		}
		old := m.lived-m.listed[0] > m.limits.conflictAge
		if dropped++; dropped > m.limits.conflictDrops {
			break
		}
		if uint64(len(m.conflicts)) <= m.limits.conflicts && bytes <= m.limits.conflictBytes && !old {
			break
		}
		m.conflicts, m.listed = m.conflicts[1:], m.listed[1:]
		m.dropped++
	}
	return result
}

func (m *promotionModel) fateCount() (n int) {
	for _, page := range m.pages {
		n += len(page)
	}
	return n
}

func (m *promotionModel) one(index uint64, t Tentative, now hlc.Timestamp) (f Fate, decided bool) {
	if m.promoted[t.Dot] {
		return m.fate(t.Dot), false
	}
	if at, lost := m.forfeited[t.Dot.Node]; lost {
		return Fate{Kind: FateLost, Index: at}, false
	}
	m.promoted[t.Dot] = true
	var held *Value
	if v, there := m.keys[string(t.Key)]; there {
		held = &v
	}
	if held != nil && held.Tombstone && held.Version.Index <= m.floor {
		held = nil
	}
	d := Decide(held, m.floor, &t)
	if t.Base >= index {
		d = Decision{Superseded: CauseStaleBase}
	}
	if d.Wins {
		v := CommittedBy(&t, index, held)
		f = Fate{FateCommitted, v.Version, index}
		if d.ListHeld {
			m.conflicts = append(m.conflicts, Conflict{
				Key: t.Key, Value: held.Bytes, Losing: held.Version, Winning: v.Version, Time: now, Delete: held.Tombstone, Cause: CauseOlder, Base: held.Base,
			})
		}
		m.set(string(t.Key), v)
	} else {
		c := Conflict{Key: t.Key, Value: t.Bytes, Losing: t.Version(0), Time: now, Delete: t.Delete, Cause: d.Superseded, Base: t.Base}
		switch {
		case held == nil:
		case d.Superseded == CauseOlder:
			c.Winning = held.Version
		case t.Base < held.LinearizableIndex:
			c.Winning = m.linearizable[string(t.Key)]
		}
		m.conflicts = append(m.conflicts, c)
		f = Fate{FateSuperseded, c.Winning, index}
	}
	m.fates[t.Dot] = f
	return f, true
}

func (m *promotionModel) fate(d Dot) Fate {
	if f, known := m.fates[d]; known {
		return f
	}
	if m.promoted[d] {
		return Fate{Kind: FateExpired}
	}
	if at, lost := m.forfeited[d.Node]; lost {
		return Fate{Kind: FateLost, Index: at}
	}
	return Fate{Kind: FatePending}
}

// raise sees the places that were there before the entry.
func (m *promotionModel) raise(index, floor uint64, before map[modelPlace]bool) {
	m.floor = max(m.floor, min(floor, index-1))
	for _, p := range m.behind(before, m.floor) {
		delete(m.places, p)
		if v, there := m.keys[p.key]; there && v.Tombstone && v.Version.Index == p.index {
			delete(m.keys, p.key)
		}
	}
}

// behind is what one floor command looks at.
func (m *promotionModel) behind(places map[modelPlace]bool, floor uint64) (found []modelPlace) {
	for p := range places {
		if p.index <= floor {
			found = append(found, p)
		}
	}
	slices.SortFunc(found, func(a, b modelPlace) int {
		return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(a.key, b.key))
	})
	return found[:min(len(found), int(m.collect))]
}

// check compares everything that can be read.
func (m *promotionModel) check(t fataler, r *ReplicaState, dots []Dot) {
	t.Helper()
	if at, _ := r.Applied(); at != m.applied || r.Floor() != m.floor {
		t.Fatalf("applied %d with floor %d, want %d with %d", at, r.Floor(), m.applied, m.floor)
	}
	for _, key := range modelKeys {
		got, found, err := r.Get([]byte(key))
		ok(t, err)
		want, there := m.keys[key]
		if found != there || !sameValue(got, want) {
			t.Fatalf("%q is %+v, %v; want %+v, %v", key, got, found, want, there)
		}
	}
	for _, d := range dots {
		f, err := r.Fate(d)
		ok(t, err)
		if want := m.fate(d); f != want || r.PromotedHas(d) != m.promoted[d] {
			t.Fatalf("%v is %+v, promoted %v, want %+v", d, f, r.PromotedHas(d), want)
		}
		want := m.fate(d)
		if want.Kind == FateExpired {
			want.Index = m.applied
		}
		if at, decided := r.DecidedAt(d); decided != want.Decided() || at < want.Index || at > m.applied || want.Kind != FateExpired && at != want.Index {
			t.Fatalf("%v was decided at %d, %v, want %+v", d, at, decided, want)
		}
	}
	if n := r.Promoted().Len(); n != uint64(len(m.promoted)) {
		t.Fatalf("%d promoted dots, want %d", n, len(m.promoted))
	}
	for _, node := range nodeIDs {
		if _, lost := m.forfeited[node]; r.Forfeited(node) != lost {
			t.Fatalf("forfeited %v", r.Forfeited(node))
		}
	}
	for _, floor := range []uint64{0, m.floor, m.applied} {
		if got, want := r.Collectable(floor), len(m.behind(m.places, max(floor, m.floor))) > 0; got != want {
			t.Fatalf("collectable to %d: %v, with %v", floor, got, m.places)
		}
	}
	if listed, dropped := r.ConflictCounts(); listed != uint64(len(m.conflicts)) || dropped != m.dropped {
		t.Fatalf("%d listed and %d dropped, want %d and %d", listed, dropped, len(m.conflicts), m.dropped)
	}
	for _, prefix := range append([]string{""}, modelKeys...) {
		m.checkConflicts(t, r, prefix)
	}
}

func (m *promotionModel) checkConflicts(t fataler, r *ReplicaState, prefix string) {
	t.Helper()
	var want []Conflict
	for _, c := range m.conflicts {
		if bytes.HasPrefix(c.Key, []byte(prefix)) {
			want = append(want, c)
		}
	}
	slices.SortStableFunc(want, func(a, b Conflict) int { return bytes.Compare(a.Key, b.Key) })
	for _, limit := range []int{0, 2} {
		var got []Conflict
		for cursor, more := []byte(nil), true; more; more = cursor != nil {
			page, next, err := r.Conflicts([]byte(prefix), cursor, limit)
			ok(t, err)
			if limit > 0 && len(page) > limit || next != nil && len(page) == 0 {
				t.Fatalf("page of %d", len(page))
			}
			got, cursor = append(got, page...), next
		}
		if !slices.EqualFunc(got, want, sameConflict) {
			t.Fatalf("conflicts of %q are\n%+v, want\n%+v", prefix, got, want)
		}
	}
}

func sameConflict(a, b Conflict) bool {
	return bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Value, b.Value) && a.Losing == b.Losing && a.Winning == b.Winning &&
		a.Time == b.Time && a.Delete == b.Delete && a.Cause == b.Cause && a.Base == b.Base
}

func sameValue(a, b Value) bool {
	same := bytes.Equal(a.Bytes, b.Bytes)
	a.Bytes, b.Bytes = nil, nil
	return same && fmt.Sprint(a) == fmt.Sprint(b)
}

func samePromotion(a, b CommandResult) bool {
	return sameResult(a, b) && (a.Promoted == nil) == (b.Promoted == nil) &&
		(a.Promoted == nil || a.Promoted.Index == b.Promoted.Index && slices.Equal(a.Promoted.Fates, b.Promoted.Fates))
}

// promotionDraws gives each dot one write, whenever it is drawn.
type promotionDraws struct {
	writes map[Dot]Tentative
	dots   []Dot
}

func (p *promotionDraws) write(t *rapid.T, applied uint64) Tentative {
	d := Dot{
		rapid.SampledFrom(nodeIDs).Draw(t, "node"),
		rapid.Uint64Range(1, 2).Draw(t, "incarnation"),
		rapid.Uint64Range(1, 12).Draw(t, "sequence"),
	}
	if w, drawn := p.writes[d]; drawn {
		return w
	}
	w := Tentative{
		Dot: d, Base: applied, Timestamp: hlc.Timestamp(rapid.Uint64Range(1, 30).Draw(t, "timestamp")),
		Key: []byte(rapid.SampledFrom(modelKeys).Draw(t, "key")),
	}
	switch rapid.IntRange(0, 5).Draw(t, "base") {
	case 0, 1, 2:
		w.Base = rapid.Uint64Range(0, applied).Draw(t, "base below")
	case 3:
		w.Base = applied + rapid.Uint64Range(1, 4).Draw(t, "base above")
	}
	if w.Delete = rapid.IntRange(0, 2).Draw(t, "delete") == 0; !w.Delete {
		w.Bytes = rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "value")
	}
	p.writes[d], p.dots = w, append(p.dots, d)
	return w
}

func (p *promotionDraws) command(t *rapid.T, m *promotionModel) any {
	switch rapid.IntRange(0, 9).Draw(t, "command") {
	case 0, 1, 2, 3:
		lin := &modelReplica{keys: map[string]modelValue{}}
		for k, v := range m.keys {
			lin.keys[k] = modelValue{version: v.Version}
		}
		return drawModelCommand(t, lin)
	case 4:
		return rapid.Uint64Range(1, m.applied+4).Draw(t, "floor")
	case 5:
		if rapid.IntRange(0, 4).Draw(t, "forfeit") == 0 {
			return rapid.SampledFrom(nodeIDs).Draw(t, "forfeited")
		}
	}
	promotion := Promotion{Now: hlc.Timestamp(rapid.Uint64Range(0, 40).Draw(t, "days")) * 86_400_000 << 16}
	promotion.Lived = time.Duration(rapid.IntRange(0, 40).Draw(t, "lived")) * 24 * time.Hour
	for range rapid.IntRange(1, 5).Draw(t, "writes") {
		promotion.Writes = append(promotion.Writes, p.write(t, m.applied))
	}
	return promotion
}

func encodeAny(t fataler, c any) (encoded []byte) {
	t.Helper()
	var err error
	switch c := c.(type) {
	case Command:
		encoded, err = AppendCommand(nil, c)
	case Promotion:
		encoded, err = AppendPromotion(nil, c)
	case uint64:
		encoded, err = AppendFloor(nil, c)
	case partition.NodeID:
		encoded, err = AppendForfeit(nil, c)
	}
	ok(t, err)
	return encoded
}

// Linearizable writes, promotions, floors and forfeits in any order: two
// replicas that take them up in other batches, restart, and are replaced by
// each other's stream, agree with the model in all that can be read, and with
// each other byte for byte.
func TestPromotionsAgreeWithAModel(t *testing.T) {
	setLimits(t, func(l *ledgerLimits) {
		l.fates, l.conflicts, l.conflictBytes, l.conflictDrops = 12, 6, 5000, 3
	})
	setCollect(t, 3)
	rapid.Check(t, func(t *rapid.T) {
		mem := vfs.NewMem()
		s := openState(t, mem)
		defer func() { ok(t, s.Close()) }()
		names := []Replica{{1, 1}, {1, 2}}
		var replicas [2]*ReplicaState
		reopen := func() {
			for i := range replicas {
				replicas[i] = replicaOf(t, s, names[i])
			}
		}
		reopen()
		m := newPromotionModel(limits)
		draws := promotionDraws{writes: map[Dot]Tentative{}}
		var log []ApplyEntry
		t.Repeat(map[string]func(*rapid.T){
			"apply": func(t *rapid.T) {
				var entries []ApplyEntry
				var want [][]CommandResult
				for range rapid.IntRange(1, 4).Draw(t, "entries") {
					e := ApplyEntry{Index: m.applied + uint64(rapid.IntRange(1, 3).Draw(t, "gap")), Term: 1}
					var commands []any
					for range rapid.IntRange(0, 4).Draw(t, "commands") {
						c := draws.command(t, m)
						commands = append(commands, c)
						e.Commands = append(e.Commands, encodeAny(t, c))
					}
					entries = append(entries, e)
					want = append(want, m.apply(e.Index, commands))
				}
				log = append(log, entries...)
				got, err := replicas[0].Apply(entries)
				ok(t, err)
				for i, e := range entries {
					one, err := replicas[1].Apply([]ApplyEntry{e})
					ok(t, err)
					if !slices.EqualFunc(got[i], want[i], samePromotion) || !slices.EqualFunc(one[0], want[i], samePromotion) {
						t.Fatalf("results %+v and %+v, want %+v", got[i], one[0], want[i])
					}
				}
			},
			"again": func(t *rapid.T) {
				if len(log) == 0 {
					return
				}
				results, err := replicas[0].Apply(log[rapid.IntRange(0, len(log)-1).Draw(t, "from"):])
				ok(t, err)
				if slices.ContainsFunc(results, func(r []CommandResult) bool { return r != nil }) {
					t.Fatal("taken up twice")
				}
			},
			"restart": func(t *rapid.T) {
				ok(t, s.Close())
				s = openState(t, mem)
				reopen()
			},
			"replace": func(t *rapid.T) {
				i := rapid.IntRange(0, 1).Draw(t, "replica")
				ok(t, s.Destroy(names[i]))
				names[i].Generation += 2
				reopen()
				ok(t, install(replicas[i], bytes.NewReader(streamOf(t, replicas[1-i]))))
			},
			"replay": func(t *rapid.T) {
				i := rapid.IntRange(0, 1).Draw(t, "replica")
				ok(t, s.Destroy(names[i]))
				names[i].Generation += 2
				reopen()
				_, err := replicas[i].Apply(log)
				ok(t, err)
			},
			"": func(t *rapid.T) {
				m.check(t, replicas[0], draws.dots)
				if a, b := dump(t, replicas[0]), dump(t, replicas[1]); a != b {
					t.Fatalf("the replicas differ:\n%s\n%s", a, b)
				}
				a, b := replicas[0].ledger.Load(), replicas[1].ledger.Load()
				if a.applied != b.applied || a.ledgerHead != b.ledgerHead || !maps.Equal(a.forfeited, b.forfeited) ||
					!a.promoted.Equal(b.promoted) || replicas[1].Floor() != m.floor {
					t.Fatalf("the replicas differ in memory:\n%+v\n%+v", a, b)
				}
			},
		})
	})
}
