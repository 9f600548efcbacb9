package storage

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// keyOf is a key of that partition, out of 16.
func keyOf(p partition.ID) []byte {
	for i := 0; ; i++ {
		if key := fmt.Appendf(nil, "k%d", i); partition.Of(key, 16) == p {
			return key
		}
	}
}

// A write whose key belongs elsewhere, or whose timestamp no clock gives, is lost
// when it is promoted: it is decided, shows nowhere, and takes nobody with it.
func TestAForgedWriteIsLost(t *testing.T) {
	here := Replica{Group: GroupOf(3), Generation: 1}
	for name, c := range map[string]struct {
		key   []byte
		at    hlc.Timestamp
		takes bool
	}{
		"its own key":            {keyOf(3), 7, true},
		"just below the horizon": {keyOf(3), hlc.Horizon - 1, true},
		"a foreign key":          {keyOf(4), 7, false},
		"the horizon":            {keyOf(3), hlc.Horizon, false},
		"the highest timestamp":  {keyOf(3), hlc.Max, false},
	} {
		if got := TakesWrite(here, 16, &Tentative{Key: c.key, Timestamp: c.at}); got != c.takes {
			t.Errorf("%s: taken: %v", name, got)
		}
	}
	s := openState(t, vfs.NewMem())
	r, err := s.Replica(here)
	if err != nil {
		t.Fatal(err)
	}
	r.SetPartitions(16)
	write := func(sequence uint64, key []byte, at hlc.Timestamp) Tentative {
		return Tentative{Dot: Dot{"n1-aaaa", 9, sequence}, Timestamp: at, Key: key, Bytes: []byte("v")}
	}
	command, err := AppendPromotion(nil, Promotion{Writes: []Tentative{
		write(1, keyOf(4), 7), write(2, keyOf(3), hlc.Max), write(3, keyOf(3), 8),
	}})
	if err != nil {
		t.Fatal(err)
	}
	results, err := r.Apply([]ApplyEntry{{Index: 5, Term: 1, Commands: [][]byte{command}}})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []FateKind{FateLost, FateLost, FateCommitted} {
		told := results[0][0].Promoted.Fates[i].Fate
		kept, err := r.Fate(Dot{"n1-aaaa", 9, uint64(i + 1)})
		if told.Kind != want || told.Index != 5 || err != nil || kept != told {
			t.Errorf("write %d: %+v, afterwards %+v, %v", i, told, kept, err)
		}
	}
	if _, found, _ := r.Get(keyOf(4)); found {
		t.Error("the foreign key is there")
	}
	if v, found, _ := r.Get(keyOf(3)); !found || v.Version.Timestamp != 8 {
		t.Errorf("its own key: %+v", v)
	}
}
