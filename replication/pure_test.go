package replication

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/capstan-kv/capstan/storage"
)

func TestBallotAsksVotersOnly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var members []Member
		voters, selfVotes := 0, false
		self := Member{Node: "n0", Generation: 7}
		for i := range rapid.IntRange(0, 9).Draw(t, "members") {
			m := Member{Node: nodeName(i + 1), Generation: uint32(i), Nonvoter: rapid.Bool().Draw(t, "nonvoter")}
			members = append(members, m)
			if !m.Nonvoter {
				voters++
			}
		}
		switch rapid.IntRange(0, 2).Draw(t, "self") {
		case 0:
			members, selfVotes = append(members, self), true
			voters++
		case 1:
			n := self
			n.Nonvoter = true
			members = append(members, n)
		}
		b := ballotOf(configurationOf(members), self.ServerID(), 3, 9)
		own := 0
		if selfVotes {
			own = 1
		}
		if b.term != 3 || b.index != 9 || len(b.voters) != voters-own {
			t.Fatalf("%+v of %d voters", b, voters)
		}
		// Confirmations and the own vote are a majority of voters; one fewer is not.
		if got := b.needed + own; 2*got <= voters || 2*(got-1) > voters {
			t.Fatalf("%d of %d voters needed", got, voters)
		}
		// Any two quorums meet.
		if 2*(b.needed+own) <= voters {
			t.Fatal("quorums need not meet")
		}
	})
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		needed, confirmations, outstanding int
		want                               verdict
	}{
		{0, 0, 0, confirmed}, // a single voter needs nobody
		{1, 0, 2, open},
		{1, 1, 1, confirmed},
		{1, 0, 0, refused},
		{2, 1, 1, open},
		{2, 1, 0, refused},
		{2, 0, 1, refused},
		{1, 0, 0, refused}, // not a voter itself, alone
	} {
		if got := judge(c.needed, c.confirmations, c.outstanding); got != c.want {
			t.Errorf("judge(%d, %d, %d) = %d, want %d", c.needed, c.confirmations, c.outstanding, got, c.want)
		}
	}
}

func TestReach(t *testing.T) {
	members := []Member{{Node: "a", Generation: 1}, {Node: "b", Generation: 1}, {Node: "c", Generation: 1}, {Node: "d", Generation: 1, Nonvoter: true}}
	for _, c := range []struct {
		self              Member
		heard             string
		reachable, needed int
	}{
		{members[0], "", 1, 2},
		{members[0], "bcd", 3, 2},
		{members[0], "d", 1, 2},
		{members[3], "ab", 2, 2},
		{Member{Node: "a", Generation: 2}, "", 0, 2}, // another generation is no voter
	} {
		r, n := reach(members, c.self, func(m Member) bool { return bytes.Contains([]byte(c.heard), []byte(m.Node)) })
		if r != c.reachable || n != c.needed {
			t.Errorf("%v hearing %q: %d of %d", c.self, c.heard, r, n)
		}
	}
}

func TestTrailingEntriesAreBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bytes, entries := rapid.Int64Range(-1, 1<<40).Draw(t, "bytes"), rapid.Int64Range(-1, 1<<30).Draw(t, "entries")
		n := trailingEntries(bytes, entries)
		if n < minTrailingEntries || n > maxTrailingEntries {
			t.Fatalf("%d entries", n)
		}
		if bytes > 0 && entries > 0 && n > minTrailingEntries && float64(n)*float64(bytes)/float64(entries) > trailingBytes*1.01 {
			t.Fatalf("%d entries of %d bytes", n, bytes/entries)
		}
	})
}

func TestServerIDs(t *testing.T) {
	m := Member{Node: "n1-k3f9", Generation: 12}
	if got, err := ParseServerID(m.ServerID()); err != nil || got != m {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "/", "n1", "n1/", "/1", "n1/x", "n1/-1", "n1/4294967296"} {
		if m, err := ParseServerID(raft.ServerID(bad)); err == nil {
			t.Errorf("%q is %v", bad, m)
		}
	}
}

func TestTimingIsChecked(t *testing.T) {
	if err := (Timing{}).withDefaults().validate(); err != nil {
		t.Error(err)
	}
	for _, bad := range []Timing{
		{Heartbeat: time.Second, Lease: 2 * time.Second},
		{Heartbeat: time.Second, Election: time.Second / 2},
		{Heartbeat: time.Millisecond},
		{Commit: -1},
	} {
		if err := bad.withDefaults().validate(); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

func TestWaitersAreWokenInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &appliedIndex{}
		const n = 200
		woken := make([]uint64, n+1) // index applied when the waiter woke
		for i := range n {
			index := uint64(rand.IntN(n) + 1)
			go func() {
				if err := a.wait(context.Background(), index); err != nil {
					t.Error(err)
				}
				if woken[i] = a.index.Load(); woken[i] < index {
					t.Errorf("woken at %d for %d", woken[i], index)
				}
			}()
		}
		given, cancel := context.WithCancel(context.Background())
		gave := make(chan error)
		go func() { gave <- a.wait(given, 3) }()
		synctest.Wait()
		cancel()
		if err := <-gave; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		for i := uint64(1); i <= n; i += uint64(1 + rand.IntN(5)) {
			a.advance(i, 1)
			synctest.Wait()
			if len(a.waiters) > 0 && a.waiters[0].index <= i {
				t.Fatal("left waiting")
			}
		}
		a.advance(n, 1)
		end := errors.New("end")
		closed := make(chan error)
		go func() { closed <- a.wait(context.Background(), n+1) }()
		synctest.Wait()
		a.close(end)
		if err := <-closed; err != end {
			t.Error(err)
		}
		if err := a.wait(context.Background(), n+1); err != end {
			t.Error(err)
		}
		if err := a.wait(context.Background(), n); err != nil {
			t.Error("what is applied stays applied:", err)
		}
	})
}

func FuzzDecodeFrame(f *testing.F) {
	f.Add(encodeNoop(nonce{1, 2, 3}))
	f.Add(encodeBatch([][]byte{[]byte("a"), nil, []byte("bc")}))
	f.Add([]byte{frameBatch, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		fr, err := decodeFrame(b)
		if err != nil {
			if !errors.Is(err, errFrame) {
				t.Error(err)
			}
			return
		}
		again := encodeBatch(fr.Commands)
		if fr.Noop != nil {
			again = encodeNoop(*fr.Noop)
		}
		if !bytes.Equal(again, b) {
			t.Errorf("% x encodes as % x", b, again)
		}
	})
}

func FuzzDecodeMessages(f *testing.F) {
	f.Add(encodeReplicas([]storage.Replica{{Group: 1, Generation: 2}}))
	f.Add(encodeTerms([]termAnswer{{true, 7}, {}}))
	f.Add(encodeNotices([]addressed{{storage.Replica{Group: 1, Generation: 2}, 3, notice{9, 4, 5}}}))
	f.Add(encodeIndexes([]indexAnswer{{indexGiven, 8, notice{9, 4, 5}}, {indexNotLeader, 0, notice{}}}))
	f.Add(encodeSilences([]silenceAnswer{{silenceMisses, tip{4, 9}, 8}, {silenceVotes, tip{4, 9}, 3}, {status: silenceHears}, {}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		same := func(again []byte, err error) {
			if err == nil && !bytes.Equal(again, b) {
				t.Errorf("% x encodes as % x", b, again)
			}
		}
		r, err := decodeReplicas(b)
		same(encodeReplicas(r), err)
		terms, err := decodeTerms(b)
		same(encodeTerms(terms), err)
		n, err := decodeNotices(b)
		same(encodeNotices(n), err)
		i, err := decodeIndexes(b)
		same(encodeIndexes(i), err)
		s, err := decodeSilences(b)
		same(encodeSilences(s), err)
	})
}

func TestMessagesRoundTrip(t *testing.T) {
	replicas := []storage.Replica{{Group: 1, Generation: 2}, {Group: 1 << 30, Generation: 1 << 31}}
	if got, err := decodeReplicas(encodeReplicas(replicas)); err != nil || !reflect.DeepEqual(got, replicas) {
		t.Errorf("%v, %v", got, err)
	}
	terms := []termAnswer{{true, 1 << 40}, {}}
	if got, err := decodeTerms(encodeTerms(terms)); err != nil || !reflect.DeepEqual(got, terms) {
		t.Errorf("%v, %v", got, err)
	}
	notices := []addressed{{replicas[0], 5, notice{3, 1, 2}}}
	if got, err := decodeNotices(encodeNotices(notices)); err != nil || !reflect.DeepEqual(got, notices) {
		t.Errorf("%v, %v", got, err)
	}
	indexes := []indexAnswer{{indexGiven, 4, notice{3, 1, 2}}, {status: indexUnconfirmed}}
	if got, err := decodeIndexes(encodeIndexes(indexes)); err != nil || !reflect.DeepEqual(got, indexes) {
		t.Errorf("%v, %v", got, err)
	}
	silences := []silenceAnswer{{silenceMisses, tip{1 << 40, 7}, 6}, {silenceVotes, tip{2, 7}, 1}, {status: silenceHears}, {}}
	if got, err := decodeSilences(encodeSilences(silences)); err != nil || !reflect.DeepEqual(got, silences) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []notice{{1, 0, 1}, {1, 3, 2}, {0, 1, 1}} {
		if bad.valid() {
			t.Errorf("%+v is valid", bad)
		}
	}
}
