package storage

import (
	"bytes"
	"testing"

	"github.com/capstan-kv/capstan/storage/hlc"
)

func promotionEntry(t fataler, index uint64, now hlc.Timestamp, writes ...Tentative) ApplyEntry {
	t.Helper()
	encoded, err := AppendPromotion(nil, Promotion{Writes: writes, Now: now})
	ok(t, err)
	return ApplyEntry{Index: index, Term: 1, Commands: [][]byte{encoded}}
}

func floorEntry(t fataler, index, floor uint64) ApplyEntry {
	t.Helper()
	encoded, err := AppendFloor(nil, floor)
	ok(t, err)
	return ApplyEntry{Index: index, Term: 1, Commands: [][]byte{encoded}}
}

func TestOrdinaryCommandsAndPromotionsOfOneBatchSeeEachOther(t *testing.T) {
	r := openReplica(t)
	first, second := eventual("n2-bbbb", 1, 0, 10, "first"), eventual("n3-cccc", 1, 5, 9, "second")
	e := entry(t, 5, put("k", "1").when(ConditionAbsent))
	e.Commands = append(e.Commands, promotionEntry(t, 5, 77, first).Commands...)
	e6 := entry(t, 6, put("k", "2").ifVersion(Version{5, 7, "n1-abcd"}), del("other"))
	e7 := promotionEntry(t, 7, 78, second)
	e8 := entry(t, 8, put("k", "3").when(ConditionAbsent))
	results, err := r.Apply([]ApplyEntry{e, e6, e7, e8})
	ok(t, err)
	fate := results[0][1].Promoted.Fates[0]
	if fate != (FateOf{first.Dot, Fate{FateSuperseded, Version{5, 7, "n1-abcd"}, 5}}) {
		t.Errorf("first: %+v", fate)
	}
	if got := results[1][0]; got.ConditionFailed {
		t.Errorf("%+v", got)
	}
	fate = results[2][0].Promoted.Fates[0]
	if fate != (FateOf{second.Dot, Fate{FateSuperseded, Version{6, 7, "n1-abcd"}, 7}}) {
		t.Errorf("second: %+v", fate)
	}
	if got := results[3][0]; !got.ConditionFailed || got.Current.Index != 6 {
		t.Errorf("%+v", got)
	}
	page, next, err := r.Conflicts(nil, nil, 0)
	ok(t, err)
	if len(page) != 2 || next != nil || string(page[0].Value) != "first" || page[0].Time != 77 || page[1].Winning.Index != 6 {
		t.Errorf("%+v", page)
	}
	to := openReplica(t)
	ok(t, install(to, bytes.NewReader(streamOf(t, r))))
	if dump(t, to) != dump(t, r) || !to.PromotedHas(second.Dot) {
		t.Error("differ after install")
	}
	_, err = r.Apply([]ApplyEntry{floorEntry(t, 9, 8)})
	ok(t, err)
	if v, found, _ := r.Get([]byte("other")); found {
		t.Errorf("%+v", v)
	}
}
