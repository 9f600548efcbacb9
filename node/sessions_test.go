package node

import (
	"testing"
	"time"

	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/replication/session"
	"github.com/capstan-kv/capstan/storage"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// What every replica holds goes without saying to a client, but not to the node
// that passes the answer on: it has to hear of the index.
func TestRelayedTokensAreWhole(t *testing.T) {
	s := &sessions{
		ring:       func() *control.State { return ringOf(4, "a") },
		everywhere: func(partition.ID) uint64 { return 10 },
	}
	saw := func(index uint64) *session.Token {
		token := &session.Token{}
		token.Saw(3, index)
		return token
	}
	for _, test := range []struct {
		index uint64
		of    *sessions
		empty bool
	}{{10, s, true}, {11, s, false}, {10, s.relayed(), false}} {
		text, err := test.of.token(saw(test.index))
		if err != nil || (text == "") != test.empty {
			t.Errorf("token of index %d: %q, %v", test.index, text, err)
		}
	}
}

// large is a token that just fits, of writes that nobody will ever decide, in
// another partition than p.
func large(t *testing.T, m *machine, bytes int) string {
	t.Helper()
	past := &session.Token{}
	var text string
	for n := uint64(2); past.Size() <= bytes; n += 2 {
		now, err := m.running().sessions.token(past.Clone())
		if err != nil {
			t.Fatal(err)
		}
		text = now
		past.Tentative(3, storage.Dot{Node: "n9-gone", Incarnation: 1, Sequence: n * n}, 1, 1)
	}
	return text
}

// A session that can not be told of a write does not make it.
func TestFullSessionWritesNothing(t *testing.T) {
	inCluster(t, 1, func(w *world) {
		n1, key := w.machines[0], keyIn(0, 4, 1)
		n1.mustWrite(ask{}, key, "before")
		for _, bytes := range []int{roomyToken, session.MaxTokenBytes - 1} {
			token := large(t, n1, bytes)
			for _, a := range []ask{{level: linearizable}, {level: eventual}} {
				a.talk = &talk{token}
				_, err := n1.write(a, key, "after")
				if bytes == roomyToken {
					if err != nil {
						t.Errorf("%v write with a token of %d bytes: %v", a.level, len(token), err)
					}
					n1.mustWrite(ask{}, key, "before")
					continue
				}
				w.refusal(err, replication.SessionBehind, replication.NotApplied)
				n1.mustRead(ask{}, key, "before")
			}
		}
	})
}

// A session that writes and never reads does not carry on with what was decided
// long ago.
func TestWritingSessionStaysSmall(t *testing.T) {
	inCluster(t, 3, func(w *world) {
		const p = 0
		me := &talk{}
		for i := range 60 {
			m := w.machines[i%3]
			m.mustWrite(ask{talk: me, level: eventual}, keyIn(p, 4, i%7), "v")
			if i%10 == 9 {
				w.awaitNoBacklog()
			}
		}
		w.awaitNoBacklog()
		n1 := w.machines[0]
		r := n1.mustWrite(ask{talk: me, level: eventual}, keyIn(p, 4, 1), "last")
		past, err := n1.running().sessions.past(me.token)
		if err != nil {
			t.Fatal(err)
		}
		receipt, err := n1.running().sessions.receipt(r.GetReceipt())
		if err != nil {
			t.Fatal(err)
		}
		if open := past.Undecided(p); len(open) != 1 || open[0] != storage.RangeOf(receipt.Dot) {
			t.Errorf("the session waits for %v", open)
		}
	})
}

// A large token of writes that are decided meanwhile makes room by itself.
func TestLargeTokenIsTidied(t *testing.T) {
	inCluster(t, 3, func(w *world) {
		n1 := w.machines[0]
		past := &session.Token{}
		for i := 0; past.Size() <= roomyToken; i++ {
			p := partition.ID(i % 4)
			r := n1.mustWrite(ask{level: eventual}, keyIn(p, 4, i%50), "v")
			receipt, err := n1.running().sessions.receipt(r.GetReceipt())
			if err != nil {
				t.Fatal(err)
			}
			// Every other one, so that they stay apart.
			if i/4%2 == 0 {
				past.Tentative(p, receipt.Dot, receipt.Base, receipt.Timestamp)
			}
		}
		token, err := (&sessions{ring: n1.running().ring}).token(past)
		if err != nil {
			t.Fatal(err)
		}
		w.awaitNoBacklog()
		me := &talk{token}
		n1.mustWrite(ask{talk: me, level: eventual}, keyIn(0, 4, 1), "more")
		if len(me.token) > 1024 {
			t.Errorf("the token has %d bytes", len(me.token))
		}
	})
}

// What is held here answers alone only if nothing that the session has seen can
// win over it.
func TestMetByOwnWrite(t *testing.T) {
	dot := storage.Dot{Node: "a", Incarnation: 1, Sequence: 5}
	other := storage.RangeOf(storage.Dot{Node: "a", Incarnation: 1, Sequence: 4})
	write := &storage.Tentative{Dot: dot, Base: 10, Timestamp: 100}
	for _, test := range []struct {
		name string
		want want
		seen []storage.DotRange
		met  bool
	}{
		{"no session", want{}, nil, true},
		{"it has seen less", want{index: 10, highest: 100}, nil, true},
		{"it has seen more of the log", want{index: 11, highest: 100}, nil, false},
		{"it has seen a later version", want{index: 10, highest: 101}, nil, false},
		{"it has seen this one, and a later one", want{index: 10, highest: 101}, []storage.DotRange{{Node: "a", Incarnation: 1, First: 4, Last: 6}}, true},
		{"it has seen another one, and a later one", want{index: 10, highest: 101}, []storage.DotRange{other}, false},
		{"a write of it is elsewhere", want{dots: []storage.DotRange{other}}, []storage.DotRange{other}, false},
	} {
		if met := test.want.metBy(write, test.seen); met != test.met {
			t.Errorf("%s: met %v", test.name, met)
		}
	}
}

// What was dropped from a token is covered by what this node has heard of; a node
// that has just joined has heard of nothing, and answers nobody by itself who may
// have seen something.
func TestWhatATokenDoesNotSay(t *testing.T) {
	codec := session.NewCodec("c", []byte("secret"))
	past := func(of *session.Token) *session.Token {
		text, err := codec.Encode(of)
		if err != nil {
			t.Fatal(err)
		}
		back, err := codec.Decode(text)
		if err != nil {
			t.Fatal(err)
		}
		return back
	}
	none, here, there := &session.Token{}, &session.Token{}, &session.Token{}
	here.Saw(3, 40)
	there.Saw(4, 40)
	for _, test := range []struct {
		of          *session.Token
		heard, want uint64
	}{{none, 0, 0}, {none, 50, 0}, {here, 50, 0}, {there, 50, 50}, {there, 0, 1}} {
		if got := wanted(3, past(test.of)).unsaid(test.heard); got != test.want {
			t.Errorf("partition 3, %+v, heard %d: %d, want %d", test.of, test.heard, got, test.want)
		}
	}
}

// The wait of AwaitWrite does not hold up a node that is to stop.
func TestCloseEndsTheWaitForAFate(t *testing.T) {
	inCluster(t, 3, func(w *world) {
		n3 := w.machines[2]
		w.cut(n3)
		w.awaitApart(0, n3)
		r := n3.mustWrite(ask{level: eventual}, keyIn(0, 4, 1), "v")
		ended := make(chan time.Time, 1)
		go func() {
			_, _ = n3.await(r.GetReceipt(), time.Minute)
			ended <- time.Now()
		}()
		time.Sleep(time.Second)
		began := time.Now()
		n3.stop()
		if waited := (<-ended).Sub(began); waited > time.Second {
			t.Errorf("it waited on for %v", waited)
		}
		n3.start()
	})
}

// A version of the key with a timestamp far ahead, that the accepting node only
// relayed: its own write, accepted in a cut, does not hide it from a session
// that has seen it.
func TestOwnWriteDoesNotHideWhatTheSessionSaw(t *testing.T) {
	clocks := &skewed{}
	inCluster(t, 5, func(w *world) {
		const p = 0
		holders, others := w.holders(p)
		m, key := others[0], keyIn(p, 4, 1)
		clocks.set(holders[0], time.Hour)
		fast := holders[0].mustWrite(ask{level: eventual, acks: 3}, key, "fast")
		holders[0].mustBecome(fast.GetReceipt(), 2)
		w.awaitNoBacklog() // every replica has it committed
		me := &talk{}
		m.mustRead(ask{level: eventual, talk: me}, key, "fast")
		w.cut(m)
		m.awaitAlone()
		slow := m.mustWrite(ask{level: eventual}, key, "slow") // another client
		if hlc.Timestamp(slow.GetVersion().GetTimestamp()) > hlc.Timestamp(fast.GetVersion().GetTimestamp()) {
			t.Fatal("a timestamp an hour ahead has moved the clock")
		}
		m.mustRead(ask{level: eventual}, key, "slow")
		_, err := m.read(ask{level: eventual, talk: me}, key)
		w.refusal(err, replication.NoReplica, replication.NotApplied)
		w.heal()
	}, clocks.clock)
}
