package storage

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

func noPace(int) error { return nil }

func digestOf(t testing.TB, r *ReplicaState) Digest {
	t.Helper()
	v, err := r.View()
	ok(t, err)
	d, err := v.Digest(noPace)
	ok(t, errors.Join(err, v.Close()))
	return d
}

// seen collects the digests of checks as they are shown.
type seen map[CheckID]Digest

func (s seen) watch(t testing.TB, r *ReplicaState) {
	r.OnCheck(func(id CheckID, v *ReplicaView) {
		d, err := v.Digest(noPace)
		ok(t, errors.Join(err, v.Close()))
		s[id] = d
	})
}

// history is entries of all kinds of commands, with a check after each.
func history(t testing.TB) (entries []ApplyEntry) {
	t.Helper()
	add := func(commands ...[]byte) {
		index := uint64(len(entries) + 1)
		commands = append(commands, AppendCheck(nil, CheckID{byte(index)}))
		entries = append(entries, ApplyEntry{Index: index, Term: 1 + index/7, Commands: commands})
	}
	command := func(c Command) []byte {
		b, err := AppendCommand(nil, c)
		ok(t, err)
		return b
	}
	promotion := func(sequence, base uint64, key string) []byte {
		b, err := AppendPromotion(nil, Promotion{Now: 50, Writes: []Tentative{{
			Dot: Dot{"n2-bbbb", 7, sequence}, Base: base, Timestamp: 9, Key: []byte(key), Bytes: []byte("eventual"),
		}}})
		ok(t, err)
		return b
	}
	for i := range 10 {
		add(command(put(fmt.Sprint("a", i), "v")), command(put("b", fmt.Sprint(i))))
	}
	add(command(del("a3")))
	add(promotion(1, 0, "a4"), promotion(2, 11, "c"))
	add(promotion(3, 11, "c"), command(del("a5")))
	floor, err := AppendFloor(nil, 11)
	ok(t, err)
	add(floor, command(put("d", "v")))
	forfeit, err := AppendForfeit(nil, "n9-zzzz")
	ok(t, err)
	add(forfeit)
	add(command(put("e", "v")))
	return entries
}

// However entries come in batches, whatever is in tables, and whether the state was
// applied or came as a whole: after the same entry the digest is the same.
func TestDigestIsOfTheEntriesAlone(t *testing.T) {
	entries := history(t)
	one, all := seen{}, seen{}
	single, whole := openReplica(t), openReplica(t)
	one.watch(t, single)
	all.watch(t, whole)
	for i, e := range entries {
		_, err := single.Apply([]ApplyEntry{e})
		ok(t, err)
		if i%5 == 0 {
			ok(t, single.state.db.Flush())
		}
	}
	_, err := whole.Apply(entries)
	ok(t, err)
	distinct := map[[32]byte]bool{}
	for _, e := range entries {
		id := CheckID{byte(e.Index)}
		if one[id] != all[id] || one[id].Index != e.Index || one[id].Term != e.Term {
			t.Errorf("after entry %d: %+v, in one batch with the others: %+v", e.Index, one[id], all[id])
		}
		distinct[one[id].Sum] = true
	}
	if len(distinct) != len(entries) {
		t.Errorf("%d digests of %d states", len(distinct), len(entries))
	}
	other := replicaOf(t, whole.state, Replica{Group: 9, Generation: 4})
	ok(t, install(other, bytes.NewReader(streamOf(t, single))))
	if a, b := digestOf(t, single), digestOf(t, other); a != b || a != one[CheckID{byte(len(entries))}] {
		t.Errorf("%+v, received as a whole: %+v", a, b)
	}
}

// One byte of any record, and a record too many or too few, changes the digest.
func TestDigestCoversEveryRecord(t *testing.T) {
	r := openReplica(t)
	_, err := r.Apply(history(t))
	ok(t, err)
	want := digestOf(t, r)
	start, end := replicaSpan(r.replica)
	it, err := r.state.db.NewIter(&pebble.IterOptions{LowerBound: start, UpperBound: end})
	ok(t, err)
	type record struct{ key, value []byte }
	var records []record
	kinds := map[byte]bool{}
	for valid := it.First(); valid; valid = it.Next() {
		records = append(records, record{append([]byte{}, it.Key()...), append([]byte{}, it.Value()...)})
		kinds[it.Key()[replicaPrefixLen]] = true
	}
	ok(t, it.Close())
	for kind := kindApplied; kind <= kindTombstone; kind++ {
		if !kinds[kind] {
			t.Errorf("the history leaves no record of kind %#x", kind)
		}
	}
	changed := func(what string, rec record) {
		t.Helper()
		v, err := r.View()
		ok(t, err)
		got, err := v.Digest(noPace)
		ok(t, v.Close())
		if err == nil && got == want {
			t.Errorf("%s %x goes unnoticed", what, rec.key)
		}
	}
	for _, rec := range records {
		if len(rec.value) > 0 {
			for _, at := range []int{len(rec.value) / 2, len(rec.value) - 1} {
				other := append([]byte{}, rec.value...)
				other[at] ^= 1
				ok(t, r.state.db.Set(rec.key, other, nil))
				changed("a byte of", rec)
			}
		}
		ok(t, r.state.db.Delete(rec.key, nil))
		changed("the loss of", rec)
		ok(t, r.state.db.Set(rec.key, rec.value, nil))
	}
	if got := digestOf(t, r); got != want {
		t.Errorf("%+v, at first %+v", got, want)
	}
}

// A digest of what is larger than one step gives up when it is told to, or when the
// replica is replaced under it; and it leaves nothing open.
func TestDigestInSteps(t *testing.T) {
	s := openState(t, vfs.NewMem())
	r := replicaOf(t, s, stateReplica)
	for i := range uint64(5) {
		_, err := r.Apply([]ApplyEntry{entry(t, i+1, put(fmt.Sprint(i), string(make([]byte, digestStep*2/3))))})
		ok(t, err)
	}
	v, err := r.View()
	ok(t, err)
	var steps []int
	d, err := v.Digest(func(bytes int) error { steps = append(steps, bytes); return nil })
	ok(t, err)
	sum := 0
	for _, n := range steps {
		if n > digestStep+MaxValueBytes {
			t.Errorf("a step of %d bytes", n)
		}
		sum += n
	}
	if uint64(sum) != d.Bytes || d.Records < 5 || len(steps) < 3 {
		t.Errorf("%+v in steps %d", d, steps)
	}
	enough := errors.New("enough")
	if _, err := v.Digest(func(int) error { return enough }); !errors.Is(err, enough) {
		t.Error(err)
	}
	if _, err := v.Digest(func(int) error { return s.Destroy(stateReplica) }); !errors.Is(err, ErrViewReplaced) {
		t.Error(err)
	}
	ok(t, v.Close())
	ok(t, s.Close())
}
