package knowledge_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/capstan-kv/capstan/replication/knowledge"
)

type (
	entry = knowledge.Entry
	claim = knowledge.Claim
	shown = knowledge.Shown
)

func TestLacks(t *testing.T) {
	acked := shown{Term: 7, Acked: 7, End: entry{7, 40}}
	later := shown{Term: 9, Acked: 7, End: entry{7, 40}}
	voted := shown{Term: 8, Acked: 7, End: entry{7, 40}, Voted: 8}
	for name, c := range map[string]struct {
		shown shown
		claim claim
		lost  string
	}{
		"nothing shown, empty replica":   {shown{}, claim{}, ""},
		"all that was acknowledged":      {acked, claim{Term: 7, End: entry{7, 40}}, ""},
		"more than was acknowledged":     {acked, claim{Term: 7, End: entry{7, 90}}, ""},
		"one entry less":                 {acked, claim{Term: 7, End: entry{7, 39}}, "in term 7 it had entry 40 of term 7 on its disk, and its log ends at entry 39 of term 7"},
		"entries of an older term":       {acked, claim{Term: 7, End: entry{6, 99}}, "its log ends at entry 99 of term 6"},
		"an empty log in that term":      {acked, claim{Term: 7}, "its log ends at no entry"},
		"a lower term":                   {acked, claim{Term: 6, End: entry{6, 50}}, "it was in term 7, and its disk says term 6"},
		"a tail cut by a later leader":   {acked, claim{Term: 8, End: entry{5, 30}}, ""},
		"a later term that it has shown": {later, claim{Term: 8, End: entry{8, 60}}, "it was in term 9"},
		"that later term, a shorter log": {later, claim{Term: 9, End: entry{5, 30}}, ""},
		"the vote":                       {voted, claim{Term: 8, End: entry{7, 40}, VoteTerm: 8, Voted: true}, ""},
		"no vote":                        {voted, claim{Term: 8, End: entry{7, 40}, VoteTerm: 7, Voted: true}, "in term 8 it voted for another"},
		"another vote":                   {voted, claim{Term: 8, End: entry{7, 40}, VoteTerm: 8}, "in term 8 it voted for another"},
		"a vote of a later term":         {voted, claim{Term: 9, End: entry{7, 40}, VoteTerm: 9}, ""},
	} {
		loss := c.shown.Lacks(c.claim)
		if loss != nil {
			got := loss.Error()
			if c.lost == "" || !strings.Contains(got, c.lost) {
				t.Errorf("%s: lost: %s", name, got)
			}
		} else if c.lost != "" {
			t.Errorf("%s: nothing is missed", name)
		}
	}
}

func TestAddIsAJoin(t *testing.T) {
	draw := rapid.Custom(func(t *rapid.T) shown {
		n := rapid.Uint64Range(0, 4)
		// In one term the log is one leader's: an index has one term.
		acked, index := n.Draw(t, "acked"), n.Draw(t, "index")
		return shown{Term: n.Draw(t, "term"), Acked: acked, End: entry{min(index, acked), index}, Voted: n.Draw(t, "voted")}
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := draw.Draw(t, "a"), draw.Draw(t, "b"), draw.Draw(t, "c")
		if a.Add(a) != a || a.Add(b) != b.Add(a) || a.Add(b).Add(c) != a.Add(b.Add(c)) {
			t.Fatalf("%+v %+v %+v", a, b, c)
		}
	})
}

func TestRecord(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Uint64()
		r := knowledge.Record{Opening: n.Draw(t, "opening"), Shown: shown{
			Term: n.Draw(t, "term"), Acked: n.Draw(t, "acked"), End: entry{n.Draw(t, "end term"), n.Draw(t, "index")}, Voted: n.Draw(t, "voted"),
		}}
		if got, err := knowledge.DecodeRecord(r.Encode()); err != nil || got != r {
			t.Fatalf("%+v became %+v, %v", r, got, err)
		}
	})
	for _, b := range [][]byte{nil, {1}, make([]byte, 49), append(knowledge.Record{}.Encode(), 0)} {
		if _, err := knowledge.DecodeRecord(b); err == nil {
			t.Errorf("%x was read", b)
		}
	}
}
