package node

import (
	"bytes"
	"fmt"
	"math"
	"reflect"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/storage"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// What one node sends, another reads back as it was.

func TestHopFramesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SliceOf(rapid.Byte()).Draw(t, "key")
		value := rapid.SliceOf(rapid.Byte()).Draw(t, "value")
		condition := &capstanv1.Condition{Test: &capstanv1.Condition_Version{Version: &capstanv1.Version{
			Index: rapid.Uint64().Draw(t, "index"), Timestamp: rapid.Uint64().Draw(t, "timestamp"), Node: "n1-abcd",
		}}}
		for kind, request := range map[hopKind]proto.Message{
			hopGet:    &capstanv1.GetRequest{Key: key},
			hopPut:    &capstanv1.PutRequest{Key: key, Value: value, Condition: condition},
			hopDelete: &capstanv1.DeleteRequest{Key: key, Condition: condition},
		} {
			frame, err := encodeHop(kind, request)
			if err != nil {
				t.Fatal(err)
			}
			gotKind, got, err := decodeHop(frame)
			if err != nil || gotKind != kind || !proto.Equal(got, request) {
				t.Fatalf("%v became %v, %v", request, got, err)
			}
		}
	})
}

func TestHopErrorsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[ -~äß€]{0,40}`)
		e := &replication.Error{
			Reason:    replication.Reason(rapid.Uint8().Draw(t, "reason")),
			Outcome:   rapid.SampledFrom([]replication.Outcome{replication.NotApplied, replication.Unknown}).Draw(t, "outcome"),
			Message:   text.Draw(t, "message"),
			Try:       text.Draw(t, "try"),
			NotLeader: rapid.Bool().Draw(t, "not leader"),
			Leader:    partition.NodeID(text.Draw(t, "leader")),
			Reachable: rapid.IntRange(0, 7).Draw(t, "reachable"),
			Needed:    rapid.IntRange(0, 7).Draw(t, "needed"),
		}
		if rapid.Bool().Draw(t, "version") {
			e.Current = &storage.Version{Index: rapid.Uint64().Draw(t, "index"), Timestamp: hlc.Timestamp(rapid.Uint64().Draw(t, "timestamp")), Node: "n1-abcd"}
		}
		got, err := decodeHopError(encodeHopError(e))
		if err != nil || !reflect.DeepEqual(got, e) {
			t.Fatalf("%+v became %+v, %v", e, got, err)
		}
	})
}

func TestPagesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := page{cursor: rapid.Uint64().Draw(t, "cursor")}
		for range rapid.IntRange(0, 5).Draw(t, "entries") {
			want.entries = append(want.entries, &capstanv1.Entry{
				Key: rapid.SliceOf(rapid.Byte()).Draw(t, "key"), Value: rapid.SliceOf(rapid.Byte()).Draw(t, "value"),
				Version: &capstanv1.Version{Index: rapid.Uint64().Draw(t, "index")},
			})
		}
		data, err := encodePage(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodePage(data)
		if err != nil || got.cursor != want.cursor || len(got.entries) != len(want.entries) {
			t.Fatalf("%+v became %+v, %v", want, got, err)
		}
		for i := range got.entries {
			if !proto.Equal(got.entries[i], want.entries[i]) {
				t.Fatalf("%v became %v", want.entries[i], got.entries[i])
			}
		}
	})
}

func TestStatusRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := nodeStatus{Node: "n1-abcd", ControlApplied: rapid.Uint64().Draw(t, "control")}
		for range rapid.IntRange(0, 5).Draw(t, "groups") {
			want.Groups = append(want.Groups, groupStatus{
				Partition: partition.ID(rapid.IntRange(0, 1023).Draw(t, "partition")), Leads: rapid.Bool().Draw(t, "leads"),
				Leader: "n2-efgh", Term: rapid.Uint64().Draw(t, "term"),
				Commit: rapid.Uint64().Draw(t, "commit"), Applied: rapid.Uint64().Draw(t, "applied"),
			})
		}
		for i := range rapid.IntRange(0, 3).Draw(t, "cut") {
			want.CutFrom = append(want.CutFrom, partition.NodeID(fmt.Sprint("n", i)))
			want.HeldBack = map[partition.NodeID]int{"n9-ijkl": rapid.IntRange(1, 1024).Draw(t, "held back")}
		}
		got, err := decodeStatus(encodeStatus(want))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v became %+v, %v", want, got, err)
		}
	})
}

// FuzzHop: what decodes means the same when it is encoded again.
func FuzzHop(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		kind, request, err := decodeHop(data)
		if err != nil {
			return
		}
		again, err := encodeHop(kind, request)
		if err != nil {
			t.Fatal(err)
		}
		if k, r, err := decodeHop(again); err != nil || k != kind || !proto.Equal(r, request) {
			t.Fatalf("%v became %v, %v", request, r, err)
		}
	})
}

func FuzzHopError(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := decodeHopError(data)
		if err != nil {
			return
		}
		if e.Outcome != replication.NotApplied && e.Outcome != replication.Unknown {
			t.Fatalf("outcome %d", e.Outcome)
		}
		if again, err := decodeHopError(encodeHopError(e)); err != nil || !reflect.DeepEqual(again, e) {
			t.Fatalf("%+v became %+v, %v", e, again, err)
		}
	})
}

func FuzzPage(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := decodePage(data)
		if err != nil {
			return
		}
		again, err := encodePage(p)
		if err != nil {
			t.Fatal(err)
		}
		if q, err := decodePage(again); err != nil || q.cursor != p.cursor || len(q.entries) != len(p.entries) {
			t.Fatalf("%+v became %+v, %v", p, q, err)
		}
	})
}

func FuzzStatus(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := decodeStatus(data)
		if err != nil {
			return
		}
		_ = s.applied(math.MaxUint16)
		leaders(map[partition.NodeID]nodeStatus{s.Node: s})
		again, err := decodeStatus(encodeStatus(s))
		if err != nil || len(again.Groups) != len(s.Groups) {
			t.Fatalf("%+v became %+v, %v", s, again, err)
		}
	})
}

// FuzzHeard: what an eventual write should have heard of.
func FuzzHeard(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := decodeHeard(data)
		if err == nil && !bytes.Equal(h.encode(), data) {
			t.Fatalf("%x became %+v", data, h)
		}
	})
}

// FuzzNear: an eventual read on its hop. What decodes wants the same when it is
// encoded again, and is within the bounds of keys and dots.
func FuzzNear(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		p, key, w, err := decodeNear(data)
		if err != nil {
			return
		}
		if len(key) == 0 || len(key) > storage.MaxKeyBytes {
			t.Fatalf("key of %d bytes", len(key))
		}
		q, again, v, err := decodeNear(w.frame(p, key)[1:])
		if err != nil || q != p || !bytes.Equal(again, key) || !reflect.DeepEqual(v, w) {
			t.Fatalf("%d %q %+v became %d %q %+v, %v", p, key, w, q, again, v, err)
		}
	})
}

func FuzzConflictsAsk(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := decodeConflictsAsk(data)
		if err != nil {
			return
		}
		if a.Limit < 1 || a.Limit > conflictPage {
			t.Fatalf("page of %d", a.Limit)
		}
		if frame := a.frame(); !bytes.Equal(frame[1:], data) {
			t.Fatalf("%x became %x", data, frame[1:])
		}
	})
}

func FuzzConflicts(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		page, err := decodeConflicts(data)
		if err != nil {
			return
		}
		b, err := page.encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeConflicts(b)
		if err != nil || !bytes.Equal(again.next, page.next) || len(again.conflicts) != len(page.conflicts) {
			t.Fatalf("%+v became %+v, %v", page, again, err)
		}
		for i := range page.conflicts {
			if !proto.Equal(page.conflicts[i], again.conflicts[i]) {
				t.Fatalf("%v became %v", page.conflicts[i], again.conflicts[i])
			}
		}
	})
}

func FuzzDot(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := decodeDot(data)
		if err != nil {
			return
		}
		if d.IsZero() || !bytes.Equal(appendDot(nil, d), data) {
			t.Fatalf("%x became %v", data, d)
		}
		if err := (&storage.DotSet{}).Add(d); err != nil {
			t.Fatalf("%v is no dot: %v", d, err)
		}
	})
}

// What has gone wrong with a frame is found wherever it is cut, and nothing is
// said of what follows it.
func TestEventualFramesCutShort(t *testing.T) {
	w := want{index: 7, dots: []storage.DotRange{{Node: "n1-abcd", Incarnation: 5, First: 1, Last: 3}}}
	w.own = dots([]storage.DotRange{{Node: "n2-abcd", Incarnation: 5, First: 1, Last: 1}})
	read := nearRead{decided: w.own, ofKey: dots(w.dots)}
	read.Key = []byte("k")
	near := w.frame(2, []byte("k"))[1:]
	ask := conflictsAsk{Partition: 2, After: []byte("after"), Limit: 3, Prefix: nil}.frame()[1:]
	dot := appendDot(nil, storage.Dot{Node: "n", Incarnation: 1, Sequence: 1})
	for what, decode := range map[string]struct {
		frame []byte
		by    func([]byte) error
	}{
		"eventual read":     {near, func(b []byte) error { _, _, _, err := decodeNear(b); return err }},
		"its answer":        {read.encode(), func(b []byte) error { _, err := decodeNearRead(b); return err }},
		"conflicts":         {ask, func(b []byte) error { _, err := decodeConflictsAsk(b); return err }},
		"dot":               {dot, func(b []byte) error { _, err := decodeDot(b); return err }},
		"what it has heard": {heard{1, 2}.encode(), func(b []byte) error { _, err := decodeHeard(b); return err }},
	} {
		if err := decode.by(decode.frame); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		for n := range decode.frame {
			if err := decode.by(decode.frame[:n]); err == nil {
				t.Errorf("%s: %d of %d bytes were understood", what, n, len(decode.frame))
			}
		}
	}
}

// aControlMachine is a control machine on a disk in memory.
func aControlMachine(t testing.TB) *controlMachine {
	t.Helper()
	state, err := storage.OpenState(storage.StateOptions{FS: vfs.NewMem(), Dir: "state"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := state.Close(); err != nil {
			t.Error(err)
		}
	})
	m, err := openControlMachine(state.Blob(controlReplica), state.Sync)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// A streamed control state arrives whole or is refused, whatever happens to it.
func TestControlStream(t *testing.T) {
	from := aControlMachine(t)
	command, err := control.EncodeCommand(control.Command{Found: &control.Found{
		ClusterID: "c1", Settings: control.Settings{Partitions: 4, ReplicationFactor: 3},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := from.Apply([]replication.Entry{{Index: 5, Term: 2, Commands: [][]byte{command}}}); err != nil {
		t.Fatal(err)
	}
	view, err := from.View()
	if err != nil {
		t.Fatal(err)
	}
	var stream bytes.Buffer
	if n, err := view.WriteTo(&stream); err != nil || n != int64(stream.Len()) {
		t.Fatal(n, err)
	}
	stage := func(m *controlMachine, data []byte) (replication.MachineStage, error) {
		s, err := m.Stage()
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.ReadFrom(bytes.NewReader(data))
		return s, err
	}
	to := aControlMachine(t)
	whole := stream.Bytes()
	for i := range whole {
		for _, damaged := range [][]byte{whole[:i], flipped(whole, i), append(bytes.Clone(whole), 0)} {
			s, err := stage(to, damaged)
			if err == nil {
				t.Fatalf("a damaged stream was taken, at byte %d", i)
			}
			if s.Install() == nil {
				t.Fatal("what was not taken was installed")
			}
		}
	}
	if to.current().Founded() {
		t.Fatal("damage left its mark")
	}
	s, err := stage(to, whole)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Install(); err != nil {
		t.Fatal(err)
	}
	if index, term := to.Applied(); index != 5 || term != 2 || !reflect.DeepEqual(to.current(), from.current()) {
		t.Errorf("installed at %d/%d: %+v", index, term, to.current())
	}
	// An older state does not come back over it.
	empty, _ := aControlMachine(t).View()
	var old bytes.Buffer
	if _, err := empty.WriteTo(&old); err != nil {
		t.Fatal(err)
	}
	if s, err := stage(to, old.Bytes()); err == nil {
		if err := s.Install(); err != nil || !to.current().Founded() {
			t.Errorf("an older state: %v, %+v", err, to.current())
		}
	}
}

func flipped(data []byte, at int) []byte {
	out := bytes.Clone(data)
	out[at] ^= 0x10
	return out
}

func FuzzControlStream(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &controlStage{}
		n, err := s.ReadFrom(bytes.NewReader(data))
		if n > int64(len(data)) || err == nil != s.whole {
			t.Fatalf("%d of %d bytes, %v, whole %v", n, len(data), err, s.whole)
		}
	})
}
