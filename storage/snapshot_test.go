package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// dump is everything that a replica holds, applied position included, relative
// to its range.
func dump(t fataler, r *ReplicaState) string {
	t.Helper()
	it, err := r.state.db.NewIter(nil)
	ok(t, err)
	defer it.Close()
	start, end := replicaSpan(r.replica)
	var b strings.Builder
	for valid := it.SeekGE(start); valid && bytes.Compare(it.Key(), end) < 0; valid = it.Next() {
		value, err := it.ValueAndErr()
		ok(t, err)
		if it.Key()[replicaPrefixLen] == kindApplied {
			value = value[1:] // whether it was installed is this replica's own
		}
		fmt.Fprintf(&b, "%x=%x\n", it.Key()[replicaPrefixLen:], value)
	}
	ok(t, it.Error())
	return b.String()
}

func streamOf(t fataler, r *ReplicaState) []byte {
	t.Helper()
	v, err := r.View()
	ok(t, err)
	var b bytes.Buffer
	n, err := v.WriteTo(&b)
	ok(t, err)
	if n != int64(b.Len()) {
		t.Fatalf("wrote %d bytes, says %d", b.Len(), n)
	}
	size, err := v.StreamBytes()
	ok(t, err)
	if size != n {
		t.Fatalf("stream of %d bytes was announced as %d", n, size)
	}
	ok(t, v.Close())
	return b.Bytes()
}

// install sends a stream through a stage of to.
func install(to *ReplicaState, stream io.Reader) error {
	g, err := to.Stage()
	if err != nil {
		return err
	}
	_, err = g.ReadFrom(stream)
	if err == nil {
		err = g.Install()
	}
	return errors.Join(err, g.Close())
}

// mixed fills a replica with values of all sizes and tombstones.
func mixed(t fataler, r *ReplicaState, seed uint64, keys int) {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 1))
	at, _ := r.Applied()
	for i := range keys {
		key := fmt.Sprintf("k%04d\x00%d", random.IntN(keys), seed)
		c := put(key, strings.Repeat(string(rune('a'+i%26)), random.IntN(2000)))
		if random.IntN(4) == 0 {
			c = del(key)
		}
		apply(t, r, at+uint64(i)+1, c)
	}
}

func stagedFiles(t fataler, s *State) (n int) {
	t.Helper()
	list, _ := s.fs.List(s.fs.PathJoin(s.dir, stagingDir))
	return len(list)
}

func TestInstallReplacesTheWholeRange(t *testing.T) {
	for _, flushed := range []bool{false, true} {
		from := openReplica(t)
		mixed(t, from, 1, 500)
		apply(t, from, 1000, put("huge", strings.Repeat("x", MaxValueBytes)))

		s := openState(t, vfs.NewMem())
		to := replicaOf(t, s, Replica{stateReplica.Group, 9})
		beside := []*ReplicaState{replicaOf(t, s, Replica{stateReplica.Group, 8}), replicaOf(t, s, Replica{stateReplica.Group, 10})}
		mixed(t, to, 2, 300)
		for _, r := range beside {
			mixed(t, r, 3, 50)
		}
		if flushed {
			ok(t, s.db.Flush())
		}
		before := []string{dump(t, beside[0]), dump(t, beside[1])}

		// The stream ends where it says: what follows on the wire is left alone.
		wire := io.MultiReader(bytes.NewReader(streamOf(t, from)), strings.NewReader("next"))
		ok(t, install(to, wire))
		if rest, _ := io.ReadAll(wire); string(rest) != "next" {
			t.Errorf("%d bytes left on the wire", len(rest))
		}
		if dump(t, to) != dump(t, from) {
			t.Error("installed state differs")
		}
		if index, term := to.Applied(); index != 1000 || term != 1 {
			t.Errorf("applied %d, %d", index, term)
		}
		for i, r := range beside {
			if dump(t, r) != before[i] {
				t.Errorf("%v changed", r.replica)
			}
		}
		// It goes on from there, and an older stage does nothing.
		apply(t, to, 1001, put("k", "1001"))
		ok(t, install(to, bytes.NewReader(streamOf(t, from))))
		if got, _ := live(t, to, "k"); got != "1001" {
			t.Errorf("an older stage was installed over index 1001")
		}
		if n := stagedFiles(t, s); n != 0 {
			t.Errorf("%d staged files left", n)
		}
		ok(t, s.Close())
	}
}

func TestStreamOfAnEmptyReplica(t *testing.T) {
	from, to := openReplica(t), openReplica(t)
	apply(t, to, 1, put("k", "1"))
	ok(t, install(to, bytes.NewReader(streamOf(t, from)))) // index 0: older
	if _, there := live(t, to, "k"); !there {
		t.Error("an empty replica was installed over a newer one")
	}
	apply(t, from, 7) // nothing but an index
	ok(t, install(to, bytes.NewReader(streamOf(t, from))))
	if dump(t, to) != dump(t, from) {
		t.Errorf("installed state is %s", dump(t, to))
	}
}

func TestABrokenStreamLeavesTheOldStateWhole(t *testing.T) {
	from, to := openReplica(t), openReplica(t)
	mixed(t, from, 1, 800)
	mixed(t, to, 2, 100)
	stream, before := streamOf(t, from), dump(t, to)

	refused := func(what string, stream []byte) {
		t.Helper()
		if err := install(to, bytes.NewReader(stream)); err == nil {
			t.Fatalf("%s: installed", what)
		}
		if dump(t, to) != before {
			t.Fatalf("%s: the old state has changed", what)
		}
	}
	var chunks [][]byte // as they stand in the stream
	for at := 0; at < len(stream); {
		end := at + chunkHeaderLen + int(binary.LittleEndian.Uint32(stream[at:])) + chunkTrailerLen
		for _, cut := range []int{at, at + 1, at + chunkHeaderLen, end - 1} {
			refused(fmt.Sprintf("cut at %d", cut), stream[:cut])
		}
		chunks, at = append(chunks, stream[at:end]), end
	}
	if len(chunks) < 4 {
		t.Fatalf("only %d chunks: the test needs several", len(chunks))
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 30 {
		refused("random cut", stream[:random.IntN(len(stream))])
		flipped := bytes.Clone(stream)
		bit := random.IntN(8 * len(stream))
		flipped[bit/8] ^= 1 << (bit % 8)
		refused(fmt.Sprintf("bit %d flipped", bit), flipped)
	}
	for bit := range 8 * 60 { // each bit of the head and of the first records
		flipped := bytes.Clone(stream)
		flipped[bit/8] ^= 1 << (bit % 8)
		refused(fmt.Sprintf("bit %d flipped", bit), flipped)
	}
	for i := range chunks {
		without := bytes.Join(append(append([][]byte{}, chunks[:i]...), chunks[i+1:]...), nil)
		refused(fmt.Sprintf("chunk %d lost", i), without)
		twice := bytes.Join(append(append([][]byte{}, chunks[:i+1]...), chunks[i:]...), nil)
		if i < len(chunks)-1 { // the end ends the stream
			refused(fmt.Sprintf("chunk %d doubled", i), twice)
		}
	}
	ok(t, install(to, bytes.NewReader(stream)))
	if dump(t, to) != dump(t, from) {
		t.Error("installed state differs")
	}
}

func TestStreamRefusesWhatDoesNotBelongIntoIt(t *testing.T) {
	value := Value{Version: Version{1, 1, "n1"}, Linearizable: true, LinearizableIndex: 1}
	good := make([]byte, value.encodedLen())
	value.encodeTo(good)
	for name, records := range map[string][][2][]byte{
		"out of order":   {{{kindKey, 'b'}, good}, {{kindKey, 'a'}, good}},
		"twice":          {{{kindKey, 'a'}, good}, {{kindKey, 'a'}, good}},
		"applied record": {{{kindApplied}, position{9, 9}.append(nil)}},
		"blob":           {{{kindBlob}, encodeBlob(BlobRecord{})}},
		"unknown kind":   {{{0xee, 'a'}, good}},
		"no key":         {{{}, good}},
		"empty user key": {{{kindKey}, good}},
		"bad value":      {{{kindKey, 'a'}, good[:10]}},
		"bad ledger":     {{{kindLedger}, good}},
		"bad fate":       {{fateKey(Dot{"n1", 1, 1}), []byte{ledgerFormat, byte(FatePending)}}},
		"fate of no dot": {{fateKey(Dot{"n1", 1, 0}), encodeFate(Fate{FateCommitted, Version{1, 1, "n1"}, 1})}},
		"bad page":       {{fatePageKey(1), encodeFatePage(nil)}},
		"bad place":      {{conflictPlaceKey(1), conflictPlace{}.encode()}},
		"bad conflict":   {{conflictKey([]byte("a"), 1), (&Conflict{}).encode()}},
		"endless key":    {{append([]byte{kindConflict}, "abc"...), (&Conflict{Losing: value.Version, Cause: CauseOlder}).encode()}},
		"bad tombstone":  {{tombstoneKey(1, []byte("a")), good}},
	} {
		var b bytes.Buffer
		w := streamWriter{w: &b}
		ok(t, w.head(position{5, 1}))
		for _, r := range records {
			ok(t, w.record(r[0], r[1]))
		}
		ok(t, w.end())
		if err := install(openReplica(t), &b); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAViewOfAReplacedReplicaFailsOrKeepsToTheOldState(t *testing.T) {
	from, to := openReplica(t), openReplica(t)
	mixed(t, from, 1, 800)
	mixed(t, to, 2, 400)
	old := streamOf(t, to)

	fresh, err := to.View() // has not begun to read
	ok(t, err)
	scanning, err := to.View()
	ok(t, err)
	first, err := scanning.Scan(ScanOptions{Limit: 10})
	ok(t, err)
	streaming, err := to.View()
	ok(t, err)
	var streamed bytes.Buffer
	_, err = streaming.WriteTo(writerFunc(func(p []byte) (int, error) {
		if streamed.Len() == 0 { // after the head, with all records to come
			ok(t, install(to, bytes.NewReader(streamOf(t, from))))
			ok(t, to.state.db.Flush())
			start, end := replicaSpan(to.replica)
			ok(t, to.state.db.Compact(t.Context(), start, end, false))
		}
		return streamed.Write(p)
	}))
	ok(t, err)
	if !bytes.Equal(streamed.Bytes(), old) {
		t.Error("a stream under way has mixed two states")
	}
	if _, err := fresh.WriteTo(io.Discard); !errors.Is(err, ErrViewReplaced) {
		t.Errorf("stream begun after the replacement: %v", err)
	}
	if _, err := fresh.Scan(ScanOptions{}); !errors.Is(err, ErrViewReplaced) {
		t.Errorf("scan begun after the replacement: %v", err)
	}
	// The scan goes on in the old state: every key of it carries seed 2.
	entries := first.Entries
	for page := first; page.More; {
		page, err = scanning.Scan(ScanOptions{Start: page.Next, Limit: 10})
		ok(t, err)
		entries = append(entries, page.Entries...)
	}
	for _, e := range entries {
		if !bytes.HasSuffix(e.Key, []byte("\x002")) {
			t.Fatalf("key %q of the new state in a view of the old", e.Key)
		}
	}
	for _, v := range []*ReplicaView{fresh, scanning, streaming} {
		ok(t, v.Close())
	}
	if dump(t, to) != dump(t, from) {
		t.Error("installed state differs")
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestAStageThatCanNotWriteLeavesTheOldState(t *testing.T) {
	from := openReplica(t)
	mixed(t, from, 1, 200)
	stream := streamOf(t, from)
	staging := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if strings.Contains(op.Path, stagingDir) && strings.HasSuffix(op.Path, ".sst") && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return errorfs.ErrInjected
		}
		return nil
	})
	failing := &errorfs.Toggle{Injector: staging}
	s := openState(t, errorfs.Wrap(vfs.NewMem(), failing))
	to := replicaOf(t, s, stateReplica)
	mixed(t, to, 2, 100)
	before := dump(t, to)
	failing.On()
	if err := install(to, bytes.NewReader(stream)); !errors.Is(err, errorfs.ErrInjected) {
		t.Errorf("install on a failing disk: %v", err)
	}
	failing.Off()
	if dump(t, to) != before {
		t.Error("the old state has changed")
	}
	ok(t, install(to, bytes.NewReader(stream)))
	if dump(t, to) != dump(t, from) {
		t.Error("installed state differs")
	}
	ok(t, s.Close())
}
