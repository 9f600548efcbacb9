package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/capstan-kv/capstan/storage/hlc"
)

func drawTentative(t *rapid.T) Tentative {
	v := drawVersion(t)
	w := Tentative{
		Dot:       Dot{v.Node, rapid.Uint64().Draw(t, "incarnation"), rapid.Uint64Min(1).Draw(t, "sequence")},
		Base:      rapid.Uint64Range(0, ^uint64(0)-1).Draw(t, "base"),
		Timestamp: v.Timestamp,
		Key:       rapid.SliceOfN(rapid.Byte(), 1, 100).Draw(t, "key"),
	}
	if w.Delete = rapid.Bool().Draw(t, "delete"); !w.Delete {
		w.Bytes = append([]byte{}, rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "value")...)
	}
	return w
}

func TestPromotionRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Promotion{Now: hlc.Timestamp(rapid.Uint64().Draw(t, "now")), limits: formerLimits}
		if rapid.Bool().Draw(t, "with limits") {
			p.Lived = time.Duration(rapid.Int64Min(0).Draw(t, "lived"))
			p.limits = ledgerLimits{fates: 1, conflicts: rapid.Uint64().Draw(t, "conflicts"), conflictBytes: 2, conflictAge: 3, conflictDrops: 4, dotSpans: 5}
		}
		for range rapid.IntRange(1, 4).Draw(t, "writes") {
			p.Writes = append(p.Writes, drawTentative(t))
		}
		encoded, err := AppendPromotion([]byte("before"), p)
		ok(t, err)
		encoded = bytes.TrimPrefix(encoded, []byte("before"))
		back, err := DecodePromotion(encoded)
		ok(t, err)
		if !reflect.DeepEqual(back, p) {
			t.Fatalf("%+v came back as %+v", p, back)
		}
		for cut := range encoded {
			if _, err := DecodePromotion(encoded[:cut]); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("cut at %d of %d: %v", cut, len(encoded), err)
			}
		}
		if _, err := DecodePromotion(append(encoded, 0)); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("one byte more: %v", err)
		}
	})
}

// Any bytes are either refused as a command, or one that has exactly one
// encoding.
func FuzzDecodePromotion(f *testing.F) {
	gone := eventual("n3-cccc", 2, 1, 3, "")
	gone.Delete, gone.Bytes = true, nil
	for _, p := range []Promotion{promotionOf(eventual("n1-aaaa", 1, 0, 5, "v")), {Writes: []Tentative{gone, eventual("n1-aaaa", 9, 8, 5, "")}, Now: 7}} {
		f.Add(encodeAny(f, p))
	}
	f.Add(encodeAny(f, uint64(7)))
	f.Add(encodeAny(f, nodeIDs[0]))
	f.Add(AppendCheck(nil, CheckID{1}))
	f.Add([]byte{promotionFormat, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := decodeAnyCommand(b, nil)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		if c.other == nil {
			return // FuzzCommand's
		}
		var again []byte
		switch c.other.format {
		case promotionFormat:
			again = encodeAny(t, c.other.promotion)
		case floorFormat:
			if again = encodeAny(t, c.other.floor); b[0] == formerFloorFormat {
				again = append([]byte{b[0]}, again[1:1+8]...)
			} else {
				binary.LittleEndian.PutUint64(again[1+8:], c.other.collect)
			}
		case forfeitFormat:
			again = encodeAny(t, c.other.forfeit)
		case checkFormat:
			again = AppendCheck(nil, c.other.check)
		}
		if !bytes.Equal(again, b) {
			t.Fatalf("%x decodes, but encodes as %x", b, again)
		}
	})
}

// ledgerSeeds is a key and a record of each kind of the ledger.
func ledgerSeeds() [][2][]byte {
	d := Dot{"n1-aaaa", 7, 3}
	h := ledgerHead{floor: 3, nextPage: 2, fates: 4}
	lived := ledgerHead{floor: 3, lived: 5}
	c := Conflict{Key: []byte("a\x00b"), Value: []byte("v"), Losing: Version{0, 5, "n1-aaaa"}, Winning: Version{9, 6, "n2-bbbb"}, Time: 8, Cause: CauseOlder, Base: 2}
	return [][2][]byte{
		{{kindLedger}, h.encode()},
		{appendDotKey([]byte{kindPromoted}, d), {ledgerFormat, 5, 0, 0, 0, 0, 0, 0, 0}},
		{append([]byte{kindForfeited}, d.Node...), encodeForfeited(6)},
		{fateKey(d), encodeFate(Fate{FateCommitted, Version{6, 4, d.Node}, 6})},
		{fateKey(d), encodeFate(Fate{FateSuperseded, Version{5, 4, "n2-bbbb"}, 6})},
		{fateKey(d), encodeFate(Fate{Kind: FateSuperseded, Index: 6})},
		{fatePageKey(2), encodeFatePage([]Dot{d, {"n2", 1, 1}})},
		{conflictPlaceKey(4), conflictPlace{8, 0, 1, c.Key}.encode()},
		{conflictPlaceKey(4), conflictPlace{8, 9, 1, c.Key}.encode()},
		{{kindLedger}, lived.encode()},
		{conflictKey(c.Key, 4), c.encode()},
		{tombstoneKey(5, c.Key), nil},
	}
}

// A record of the ledger that is taken has exactly one encoding, key and all.
func FuzzLedgerRecord(f *testing.F) {
	for _, seed := range ledgerSeeds() {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, key, record []byte) {
		if checkRecord(key, record, nil) != nil || key[0] == kindKey {
			return
		}
		againKey, again := key, record
		switch rest := key[1:]; key[0] {
		case kindLedger:
			h, err := decodeLedgerHead(record)
			ok(t, err)
			again = h.encode()
		case kindPromoted:
			run, err := decodePromotedRun(rest, record, nil)
			ok(t, err)
			againKey = appendDotKey([]byte{kindPromoted}, Dot{run.Node, run.Incarnation, run.First})
		case kindForfeited:
			index, err := decodeForfeited(record)
			ok(t, err)
			again = encodeForfeited(index)
		case kindFate:
			d, _, err := cutDotKey(rest, nil)
			ok(t, err)
			fate, err := decodeFate(d, record, nil)
			ok(t, err)
			againKey, again = fateKey(d), encodeFate(fate)
		case kindFatePage:
			dots, err := decodeFatePage(record, nil)
			ok(t, err)
			again = encodeFatePage(dots)
		case kindConflictPlace:
			place, err := decodeConflictPlace(record)
			ok(t, err)
			again = place.encode()
		case kindConflict:
			user, err := decodeConflictKey(rest)
			ok(t, err)
			c, err := decodeConflict(user, record, nil)
			ok(t, err)
			againKey, again = conflictKey(user, number(rest[len(rest)-8:])), c.encode()
		}
		if !bytes.Equal(againKey, key) || !bytes.Equal(again, record) {
			t.Fatalf("%x = %x is taken, but encodes as %x = %x", key, record, againKey, again)
		}
	})
}

func number(b []byte) (n uint64) {
	for _, d := range b {
		n = n<<8 | uint64(d)
	}
	return n
}

// The order of conflict keys is that of the users' keys, then of the numbers,
// and the keys with a prefix stand together.
func TestConflictKeysAreOrdered(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bytesOf := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 2, 'a', 0xfe, 0xff}), 1, 5)
		a, b := bytesOf.Draw(t, "a"), bytesOf.Draw(t, "b")
		x, y := rapid.Uint64().Draw(t, "x"), rapid.Uint64().Draw(t, "y")
		want := bytes.Compare(a, b)
		if want == 0 {
			want = map[bool]int{true: -1, false: 1}[x < y]
			if x == y {
				want = 0
			}
		}
		if got := bytes.Compare(conflictKey(a, x), conflictKey(b, y)); got != want {
			t.Fatalf("%x and %x compare as %d, their keys as %d", a, b, want, got)
		}
		within := appendEscapedKey([]byte{kindConflict}, b)
		k := conflictKey(a, x)
		end := prefixEnd(within)
		if got := bytes.Compare(k, within) >= 0 && bytes.Compare(k, end) < 0; got != bytes.HasPrefix(a, b) {
			t.Fatalf("%x with prefix %x: %v", a, b, got)
		}
	})
}
