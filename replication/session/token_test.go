package session

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
	"github.com/capstan-kv/capstan/storage/hlc"
)

func dot(node string, sequence uint64) storage.Dot {
	return storage.Dot{Node: partition.NodeID(node), Incarnation: 7, Sequence: sequence}
}

func run(node string, first, last uint64) storage.DotRange {
	return storage.DotRange{Node: partition.NodeID(node), Incarnation: 7, First: first, Last: last}
}

func dotsOf(ranges ...storage.DotRange) *storage.DotSet {
	s := &storage.DotSet{}
	for _, r := range ranges {
		if err := s.AddRange(r); err != nil {
			panic(err)
		}
	}
	return s
}

func wantUndecided(t *testing.T, token *Token, p partition.ID, want ...storage.DotRange) {
	t.Helper()
	if got := token.Undecided(p); !slices.Equal(got, want) {
		t.Fatalf("undecided in partition %d: %v, want %v", p, got, want)
	}
}

func TestATentativeWriteRaisesIndexAndTimestamp(t *testing.T) {
	var token Token
	token.Tentative(3, dot("n1", 4), 17, 1000)
	if got := token.Index(3); got != 17 {
		t.Fatalf("index %d, want the write's base, 17", got)
	}
	if got := token.Highest(); got != 1000 {
		t.Fatalf("highest timestamp %d, want the write's, 1000", got)
	}
	token.Tentative(3, dot("n1", 5), 11, 900) // a later one, that knew less
	if token.Index(3) != 17 || token.Highest() != 1000 {
		t.Fatalf("went back to index %d, timestamp %d", token.Index(3), token.Highest())
	}
	wantUndecided(t, &token, 3, run("n1", 4, 5))
}

func TestDecidedWritesAreDroppedForTheirIndex(t *testing.T) {
	var token Token
	for n := range uint64(6) {
		token.Tentative(1, dot("n1", n+1), 2, 0)
	}
	token.Settle(1, func(d storage.Dot) (uint64, bool) { return 40 + d.Sequence, d.Sequence%2 == 0 })
	wantUndecided(t, &token, 1, run("n1", 1, 1), run("n1", 3, 3), run("n1", 5, 5))
	if got := token.Index(1); got != 46 {
		t.Fatalf("index %d, want that of the last decision, 46", got)
	}
	token.SettleAll(1, 90, dotsOf(run("n1", 7, 9), run("n2", 1, 99)))
	if got := token.Index(1); got != 46 {
		t.Fatalf("index %d after nothing was settled", got)
	}
	token.SettleAll(1, 90, dotsOf(run("n1", 1, 4)))
	wantUndecided(t, &token, 1, run("n1", 5, 5))
	if got := token.Index(1); got != 90 {
		t.Fatalf("index %d, want that of the state, 90", got)
	}
}

func TestLostWritesAreDropped(t *testing.T) {
	var token Token
	token.Tentative(1, dot("n1", 1), 0, 5)
	token.Tentative(1, dot("n2", 1), 0, 6)
	token.Lose(1, func(n partition.NodeID) bool { return n == "n1" })
	wantUndecided(t, &token, 1, run("n2", 1, 1))
	token.Lose(1, func(partition.NodeID) bool { return true })
	if got := slices.Collect(token.Partitions()); len(got) != 0 {
		t.Fatalf("nothing is left to ask of partitions %v", got)
	}
}

func TestAPartitionWithUndecidedWritesIsNotDropped(t *testing.T) {
	var token Token
	token.Saw(1, 8)
	token.Saw(2, 8)
	token.Tentative(2, dot("n1", 1), 3, 0)
	token.Drop(1)
	token.Drop(2)
	token.Drop(3)
	if got := slices.Collect(token.Partitions()); !slices.Equal(got, []partition.ID{2}) || token.Index(2) != 8 {
		t.Fatalf("left are %v, index %d", got, token.Index(2))
	}
}

func TestWideningFillsOnlyWhatExists(t *testing.T) {
	var token Token
	for _, n := range []uint64{2, 5, 9, 12} {
		token.Tentative(1, dot("n1", n), 1, 1)
	}
	token.Tentative(1, dot("n2", 20), 1, 1)
	token.Widen(1, func(d storage.Dot) bool { return d.Sequence != 7 })
	wantUndecided(t, &token, 1, run("n1", 2, 5), run("n1", 9, 12), run("n2", 20, 20))
}

func TestWhatCanNotBeIsRefusedAtTheEnd(t *testing.T) {
	codec := NewCodec("c", nil)
	for name, spoil := range map[string]func(*Token){
		"partition": func(t *Token) { t.Saw(partition.MaxCount, 1) },
		"dot":       func(t *Token) { t.Tentative(1, storage.Dot{Node: "n1"}, 1, 1) },
		"node":      func(t *Token) { t.Tentative(1, dot("", 1), 0, 1) },
		"sequence":  func(t *Token) { t.Tentative(1, dot("n1", maxSequence), 1, 1) },
		"merged": func(t *Token) {
			var o Token
			o.Tentative(1, dot("", 1), 0, 1)
			t.Merge(&o)
		},
	} {
		var token Token
		token.Saw(1, 5)
		spoil(&token)
		if text, err := codec.Encode(&token); err == nil {
			t.Errorf("%s: encoded as %q", name, text)
		}
		if token.Index(1) != 5 {
			t.Errorf("%s: index %d", name, token.Index(1))
		}
	}
}

// modelToken is a token in the plainest way.
type modelToken struct {
	index   map[partition.ID]uint64
	dots    map[partition.ID]map[storage.Dot]bool
	highest hlc.Timestamp
}

func newModelToken() *modelToken {
	return &modelToken{index: map[partition.ID]uint64{}, dots: map[partition.ID]map[storage.Dot]bool{}}
}

func (m *modelToken) saw(p partition.ID, index uint64) { m.index[p] = max(m.index[p], index) }

func (m *modelToken) add(p partition.ID, d storage.Dot) {
	if m.dots[p] == nil {
		m.dots[p] = map[storage.Dot]bool{}
	}
	m.dots[p][d] = true
}

func (m *modelToken) merge(o *modelToken) {
	m.highest = max(m.highest, o.highest)
	for p, i := range o.index {
		m.saw(p, i)
	}
	for p, dots := range o.dots {
		for d := range dots {
			m.add(p, d)
		}
	}
}

func (m *modelToken) check(t *rapid.T, token *Token) {
	if token.Highest() != m.highest {
		t.Fatalf("highest %d, want %d", token.Highest(), m.highest)
	}
	known := map[partition.ID]bool{}
	for p := range m.index {
		known[p] = true
	}
	for p := range m.dots {
		known[p] = true
	}
	for p := range token.Partitions() {
		known[p] = true
		if m.index[p] == 0 && len(m.dots[p]) == 0 {
			t.Fatalf("partition %d stands for nothing", p)
		}
	}
	for p := range known {
		if got, want := token.Index(p), m.index[p]; got != want {
			t.Fatalf("partition %d: index %d, want %d", p, got, want)
		}
		got := map[storage.Dot]bool{}
		for _, r := range token.Undecided(p) {
			for n := r.First; n <= r.Last; n++ {
				got[storage.Dot{Node: r.Node, Incarnation: r.Incarnation, Sequence: n}] = true
			}
		}
		if !maps.Equal(got, m.dots[p]) {
			t.Fatalf("partition %d: dots %v, want %v", p, got, m.dots[p])
		}
	}
}

// Whatever a session does, on its way through texts: its token is what a plain
// model says, and one text is one token.
func TestTokensAreWhatTheModelSays(t *testing.T) {
	codec := NewCodec("c-1", []byte("secret"))
	rapid.Check(t, func(t *rapid.T) {
		type pair struct {
			token *Token
			model *modelToken
		}
		pairs := []pair{{&Token{}, newModelToken()}, {&Token{}, newModelToken()}}
		pick := func(t *rapid.T) pair { return pairs[rapid.IntRange(0, 1).Draw(t, "session")] }
		ids := rapid.OneOf(rapid.SampledFrom([]partition.ID{0, 1, 2, 5, partition.MaxCount - 1}),
			rapid.Map(rapid.IntRange(0, partition.MaxCount-1), func(i int) partition.ID { return partition.ID(i) }))
		index := rapid.OneOf(rapid.Uint64Range(1, 30), rapid.Uint64Range(1, 1<<40), rapid.Uint64Min(1))
		dots := rapid.Custom(func(t *rapid.T) storage.Dot {
			return storage.Dot{
				Node:        rapid.SampledFrom([]partition.NodeID{"a", "ab", "n2-k3f9"}).Draw(t, "node"),
				Incarnation: rapid.SampledFrom([]uint64{0, 1, 1 << 63}).Draw(t, "incarnation"),
				Sequence:    rapid.OneOf(rapid.Uint64Range(1, 12), rapid.Uint64Range(1, maxSequence-1)).Draw(t, "sequence"),
			}
		})
		t.Repeat(map[string]func(*rapid.T){
			"saw": func(t *rapid.T) {
				s, p, i := pick(t), ids.Draw(t, "partition"), index.Draw(t, "index")
				s.token.Saw(p, i)
				s.model.saw(p, i)
			},
			"tentative": func(t *rapid.T) {
				s, p, d := pick(t), ids.Draw(t, "partition"), dots.Draw(t, "dot")
				base, ts := rapid.Uint64().Draw(t, "base"), hlc.Timestamp(rapid.Uint64().Draw(t, "timestamp"))
				s.token.Tentative(p, d, base, ts)
				s.model.saw(p, base)
				s.model.add(p, d)
				s.model.highest = max(s.model.highest, ts)
			},
			"settle": func(t *rapid.T) {
				s, p, i := pick(t), ids.Draw(t, "partition"), index.Draw(t, "index")
				decided := dotsOf(run("a", 1, 5), storage.DotRange{Node: "n2-k3f9", Incarnation: 1, First: 3, Last: maxSequence / 2})
				hit := false
				for d := range s.model.dots[p] {
					if decided.Has(d) {
						delete(s.model.dots[p], d)
						hit = true
					}
				}
				if hit {
					s.model.saw(p, i)
				}
				if rapid.Bool().Draw(t, "all") {
					s.token.SettleAll(p, i, decided)
					return
				}
				for _, r := range s.token.Undecided(p) {
					if r.Last-r.First > 1000 {
						t.Fatalf("a run of %v out of a few dots", r)
					}
				}
				s.token.Settle(p, func(d storage.Dot) (uint64, bool) { return i, decided.Has(d) })
			},
			"lose": func(t *rapid.T) {
				s, p := pick(t), ids.Draw(t, "partition")
				s.token.Lose(p, func(n partition.NodeID) bool { return n == "ab" })
				maps.DeleteFunc(s.model.dots[p], func(d storage.Dot, _ bool) bool { return d.Node == "ab" })
			},
			"drop": func(t *rapid.T) {
				s, p := pick(t), ids.Draw(t, "partition")
				s.token.Drop(p)
				if len(s.model.dots[p]) == 0 {
					delete(s.model.index, p)
				}
			},
			"merge": func(t *rapid.T) {
				pairs[0].token.Merge(pairs[1].token)
				pairs[0].model.merge(pairs[1].model)
			},
			"text": func(t *rapid.T) {
				i := rapid.IntRange(0, 1).Draw(t, "session")
				was := pairs[i].token
				text, err := codec.Encode(was)
				if errors.Is(err, ErrTooLarge) && was.Size() > MaxTokenBytes {
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if len(text) != was.Size() {
					t.Fatalf("%d bytes, announced as %d", len(text), was.Size())
				}
				if pairs[i].token, err = codec.Decode(text); err != nil {
					t.Fatal(err)
				}
				if again, err := codec.Encode(pairs[i].token); err != nil || again != text {
					t.Fatalf("%q became %q, %v", text, again, err)
				}
			},
			"clone": func(t *rapid.T) {
				was := pairs[0].token
				pairs[0].token = was.Clone()
				was.Saw(1, 1<<60) // must not be seen in the copy
				was.Tentative(0, dot("a", 99), 1<<60, hlc.Max)
			},
			"": func(t *rapid.T) {
				for _, s := range pairs {
					s.model.check(t, s.token)
				}
			},
		})
	})
}

func ExampleToken() {
	codec := NewCodec("cluster-1", []byte("secret"))
	var token Token
	token.Tentative(9, storage.Dot{Node: "n3-p7wd", Incarnation: 1, Sequence: 12}, 41, 1000)
	text, _ := codec.Encode(&token)

	came, _ := codec.Decode(text)
	fmt.Println(came.Index(9), came.Undecided(9))
	came.Settle(9, func(storage.Dot) (uint64, bool) { return 44, true })
	fmt.Println(came.Index(9), came.Undecided(9))
	// Output:
	// 41 [n3-p7wd/1:12]
	// 44 []
}
